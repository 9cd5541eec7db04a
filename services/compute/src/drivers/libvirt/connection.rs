//! The connection to libvirt: opened when it is needed, made anew when it
//! broke, its events passed on.
//!
//! libvirt's calls block, so each one runs on a blocking thread, and only so
//! many at a time. Events come through libvirt's own loop on a thread of its
//! own, which must be registered before the first connection is opened. The
//! safe crate does not offer domain events; this file is the only one that
//! reaches below it.

use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use tracing::{info, warn};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;
use yakumo_service::Process;

use crate::drivers::{DriverError, HypervisorEvent};

use yakumo_types::ServerId;

/// Seconds between questions whether the other side lives, and how many may
/// stay unanswered.
const KEEP_ALIVE: (i32, u32) = (5, 4);

/// A connection, closed when the last user drops it.
struct Open {
    connect: Connect,
    callback: c_int,
    lost: AtomicBool,
}

impl Drop for Open {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the connection is open until the line after, and `callback`
        // was handed out for it.
        unsafe { sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), self.callback) };
        // Of a dead connection nothing more can be had.
        let _ = self.connect.close();
    }
}

struct Shared {
    uri: String,
    open: Mutex<Option<Arc<Open>>>,
    events: broadcast::Sender<HypervisorEvent>,
}

/// The connection to libvirt; a cheap handle.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    threads: Arc<Semaphore>,
}

impl Connection {
    /// A connection to `uri`, not opened yet, that `threads` calls may use at
    /// a time; looked after until the process ends.
    pub(super) fn start(process: &Process, uri: &str, threads: usize) -> anyhow::Result<Self> {
        start_event_loop()?;
        let connection = Self {
            shared: Arc::new(Shared {
                uri: uri.to_owned(),
                open: Mutex::default(),
                events: broadcast::channel(1024).0,
            }),
            threads: Arc::new(Semaphore::new(threads.max(1))),
        };
        let watched = connection.clone();
        let env = process.env.clone();
        let shutdown = process.shutdown.clone();
        process.spawn("libvirt connection", async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = env.clock.sleep(Duration::from_secs(1)) => {}
                }
                watched.look_after().await;
            }
        });
        Ok(connection)
    }

    /// News from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.shared.events.subscribe()
    }

    /// Opens the connection again if it broke. Whatever happened meanwhile
    /// was missed, so everybody is told to look.
    async fn look_after(&self) {
        let shared = Arc::clone(&self.shared);
        // Its own thread: it must not wait behind calls that hang on a dead
        // connection.
        let _ = tokio::task::spawn_blocking(move || shared.current().map(drop)).await;
    }

    /// Runs `work` with an open connection. `what` completes "libvirt could
    /// not …" in the log.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, DriverError> {
        let permit = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .map_err(|error| DriverError::later("The host is stopping.", error))?;
        let shared = Arc::clone(&self.shared);
        let call = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let open = shared.current()?;
            work(&open.connect).inspect_err(|_| {
                if !open.connect.is_alive().unwrap_or(false) {
                    open.lost.store(true, Ordering::Release);
                }
            })
        });
        match call.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let fault = if is_about_connection(&error) {
                    "The host's hypervisor does not answer."
                } else {
                    "The host's hypervisor refused the operation."
                };
                Err(DriverError::later(
                    fault,
                    anyhow::Error::new(error).context(format!("libvirt could not {what}")),
                ))
            }
            Err(panic) => Err(DriverError::later(
                "The host's hypervisor could not be used.",
                panic,
            )),
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Option<Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection, or a new one.
    fn current(&self) -> Result<Arc<Open>, Error> {
        let mut current = self.open();
        if let Some(open) = &*current {
            let lives =
                !open.lost.load(Ordering::Acquire) && open.connect.is_alive().unwrap_or(false);
            if lives {
                return Ok(Arc::clone(open));
            }
            warn!(uri = self.uri, "the connection to libvirt broke");
            *current = None;
        }
        let connect = Connect::open(Some(&self.uri))?;
        // Without it a call to a daemon that hangs would hang as well.
        if let Err(error) = connect.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1) {
            warn!(%error, "libvirt offers no keep-alive");
        }
        let callback = match register(&connect, &self.events) {
            Ok(callback) => callback,
            Err(error) => {
                let mut connect = connect;
                let _ = connect.close();
                return Err(error);
            }
        };
        info!(uri = self.uri, "connected to libvirt");
        let open = Arc::new(Open {
            connect,
            callback,
            lost: AtomicBool::new(false),
        });
        *current = Some(Arc::clone(&open));
        drop(current);
        let _ = self.events.send(HypervisorEvent::All);
        Ok(open)
    }
}

/// Whether there is no such domain.
pub(super) fn is_missing(error: &Error) -> bool {
    error.code() == ErrorNumber::NoDomain
}

/// Whether the domain is in a state that does not allow the operation.
pub(super) fn is_wrong_state(error: &Error) -> bool {
    error.code() == ErrorNumber::OperationInvalid
}

fn is_about_connection(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorNumber::NoConnect
            | ErrorNumber::InvalidConn
            | ErrorNumber::Rpc
            | ErrorNumber::SystemError
            | ErrorNumber::AuthFailed
    )
}

/// The domain, or nothing if there is none.
pub(super) fn find(connect: &Connect, server: ServerId) -> Result<Option<Domain>, Error> {
    match Domain::lookup_by_uuid(connect, *server.as_uuid()) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes the device of this alias from the running domain: asks the guest to
/// let go of it, and does not wait.
#[allow(unsafe_code)]
pub(super) fn detach_by_alias(domain: &Domain, alias: &str) -> Result<(), Error> {
    // An alias holds letters, digits and hyphens only.
    let alias = CString::new(alias).unwrap_or_default();
    // SAFETY: the domain's pointer is valid while `domain` lives, and the
    // alias is a string that ends in a zero byte and outlives the call.
    let result = unsafe {
        sys::virDomainDetachDeviceAlias(
            domain.as_ptr(),
            alias.as_ptr(),
            sys::VIR_DOMAIN_AFFECT_LIVE,
        )
    };
    if result == -1 {
        return Err(Error::last_error());
    }
    Ok(())
}

/// Registers libvirt's event loop and runs it on a thread of its own, once for
/// the process: libvirt knows one loop for each process.
fn start_event_loop() -> anyhow::Result<()> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(run_event_loop)
        .clone()
        .map_err(anyhow::Error::msg)
}

#[allow(unsafe_code)]
fn run_event_loop() -> Result<(), String> {
    // Errors are returned where they happen; libvirt would print them as well.
    virt::error::clear_error_callback();
    // SAFETY: takes nothing, and is called once, before any connection is opened.
    if unsafe { sys::virEventRegisterDefaultImpl() } != 0 {
        return Err(format!(
            "libvirt's event loop could not be registered: {}",
            Error::last_error()
        ));
    }
    let run = || {
        loop {
            // SAFETY: the loop was registered, and this thread alone runs it.
            if unsafe { sys::virEventRunDefaultImpl() } != 0 {
                warn!(error = %Error::last_error(), "libvirt's event loop stumbled");
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    };
    std::thread::Builder::new()
        .name("libvirt events".into())
        .spawn(run)
        .map(drop)
        .map_err(|error| format!("the thread of libvirt's event loop: {error}"))
}

/// Asks for lifecycle events of all domains.
#[allow(unsafe_code)]
fn register(
    connect: &Connect,
    events: &broadcast::Sender<HypervisorEvent>,
) -> Result<c_int, Error> {
    let opaque = Box::into_raw(Box::new(events.clone())).cast::<c_void>();
    type Lifecycle = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        c_int,
        c_int,
        *mut c_void,
    ) -> c_int;
    type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
    // SAFETY: libvirt documents that a callback for lifecycle events has the
    // signature of `on_lifecycle` and is passed through this cast; it is called
    // by no other signature.
    let callback = unsafe { std::mem::transmute::<Lifecycle, Generic>(on_lifecycle) };
    // SAFETY: the connection is open; `opaque` is a box that libvirt gives back
    // to `free_sender` once, after the last call of the callback.
    let id = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            std::ptr::null_mut(),
            c_int::try_from(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE).unwrap_or(0),
            Some(callback),
            opaque,
            Some(free_sender),
        )
    };
    if id == -1 {
        let error = Error::last_error();
        // SAFETY: the registration failed, so libvirt does not know the box.
        unsafe { free_sender(opaque) };
        return Err(error);
    }
    Ok(id)
}

/// Called by libvirt's event loop.
#[allow(unsafe_code)]
unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let mut bytes = [0u8; 16];
    // SAFETY: libvirt passes a valid domain, and a UUID takes sixteen bytes.
    if unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: `opaque` is the box of `register`, which libvirt keeps until the
    // callback is deregistered.
    let events = unsafe { &*opaque.cast::<broadcast::Sender<HypervisorEvent>>() };
    let server = ServerId::from_uuid(uuid::Uuid::from_bytes(bytes));
    // Nobody may be listening yet.
    let _ = events.send(HypervisorEvent::Server(server));
    0
}

/// Called by libvirt when a callback is gone.
#[allow(unsafe_code)]
unsafe extern "C" fn free_sender(opaque: *mut c_void) {
    // SAFETY: `opaque` is the box of `register`, and this is its last use.
    drop(unsafe { Box::from_raw(opaque.cast::<broadcast::Sender<HypervisorEvent>>()) });
}
