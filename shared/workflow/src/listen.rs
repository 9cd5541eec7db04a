//! Wake-ups within one process: a task that has just looked and found nothing
//! stays a moment and is told directly, which spares the writes of leaving a
//! workflow and claiming it again. Whoever is woken by another process finds
//! out from the workflow's row, when it leaves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Where running workflows listen, by resource and by id.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<HashMap<String, Vec<Arc<Ear>>>>);

/// What one running workflow has heard.
#[derive(Default)]
pub(crate) struct Ear {
    called: Notify,
    wakes: AtomicI64,
    cancelled: AtomicBool,
    /// While the workflow is being left or ended: what is heard then may come
    /// too late.
    deaf: AtomicBool,
}

impl Ear {
    /// How often it was woken since it listens.
    pub(crate) fn wakes(&self) -> i64 {
        self.wakes.load(Ordering::SeqCst)
    }

    /// Whether it was told to give up.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Ends when it is woken beyond `heard` times, or cancelled.
    pub(crate) async fn woken_beyond(&self, heard: i64) {
        while self.wakes() == heard && !self.is_cancelled() {
            self.called.notified().await;
        }
    }
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Ear>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens under both names until the result is dropped.
    pub(crate) fn listen(&self, names: [String; 2]) -> Listening<'_> {
        let ear = Arc::new(Ear::default());
        let mut all = self.lock();
        for name in &names {
            all.entry(name.clone()).or_default().push(Arc::clone(&ear));
        }
        drop(all);
        Listening {
            listeners: self,
            names,
            ear,
        }
    }

    /// What the workflows of `resource` wait for has happened. Returns how many
    /// of them surely take notice.
    pub(crate) fn wake(&self, resource: &str) -> u64 {
        let mut heard = 0;
        for ear in self.lock().get(resource).into_iter().flatten() {
            ear.wakes.fetch_add(1, Ordering::SeqCst);
            ear.called.notify_one();
            heard += u64::from(!ear.deaf.load(Ordering::SeqCst));
        }
        heard
    }

    /// The workflow `id` is to give up.
    pub(crate) fn cancel(&self, id: &str) {
        for ear in self.lock().get(id).into_iter().flatten() {
            ear.cancelled.store(true, Ordering::SeqCst);
            ear.called.notify_one();
        }
    }
}

/// One workflow's place among the listeners.
pub(crate) struct Listening<'l> {
    listeners: &'l Listeners,
    names: [String; 2],
    pub(crate) ear: Arc<Ear>,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let mut all = self.listeners.lock();
        for name in &self.names {
            if let Some(ears) = all.get_mut(name) {
                ears.retain(|ear| !Arc::ptr_eq(ear, &self.ear));
                if ears.is_empty() {
                    all.remove(name);
                }
            }
        }
    }
}
