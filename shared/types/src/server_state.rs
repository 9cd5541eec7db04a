//! A server's three facts, and the one function that moves them.
//!
//! - [`VmState`] is what the user may rely on,
//! - [`TaskState`] is what is being done to the server, if anything,
//! - [`PowerState`] is what the hypervisor says.
//!
//! ```text
//!              Accepted                 Booted
//!   (nothing) ─────────► building ───────────────► active ◄──────────┐
//!                           │ BootFailed           │    ▲            │
//!                           ▼            StopAsked │    │ StartAsked │ UnpauseAsked
//!                         error ◄─── ResetTo       ▼    │            │
//!                                                stopped      PauseAsked ─► paused
//!
//!            every state but deleted ── DeleteAsked, DeleteDone ──► deleted
//! ```
//!
//! A request first names its task (`StopAsked` gives *powering-off*), its end
//! (`TaskDone`) moves the state. What a host reports by itself (a guest that
//! switched itself off) moves a server only while no task is at work: a task
//! judges reports itself. [`ServerState::after`] is pure, so the rules can be
//! tested without a database; rows change by compare-and-swap on the task
//! state that the decision was made from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$item])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that rows and APIs use.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Fault;

            fn from_str(text: &str) -> Result<Self, Fault> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(Fault::invalid(concat!("There is no such ", stringify!($name), "."))),
                }
            }
        }
    };
}

words! {
    /// What the user may rely on.
    VmState {
        /// Accepted and not there yet.
        Building = "building",
        /// It runs.
        Active = "active",
        /// It is switched off; its disk is kept.
        Stopped = "stopped",
        /// It is frozen in memory.
        Paused = "paused",
        /// Something went wrong; the server's fault says what.
        Error = "error",
        /// It is gone; the row is kept for a while.
        Deleted = "deleted",
    }
}

words! {
    /// What is being done to a server.
    TaskState {
        /// A host is being looked for.
        Scheduling = "scheduling",
        /// Ports are being made.
        Networking = "networking",
        /// The host makes disk and domain.
        Spawning = "spawning",
        /// On its way to stopped.
        PoweringOff = "powering-off",
        /// On its way from stopped to active.
        PoweringOn = "powering-on",
        /// The guest was asked to restart.
        Rebooting = "rebooting",
        /// The plug was pulled, to be put in again.
        RebootingHard = "rebooting_hard",
        /// Being frozen.
        Pausing = "pausing",
        /// Being thawed.
        Unpausing = "unpausing",
        /// On its way out.
        Deleting = "deleting",
    }
}

/// What the hypervisor says; the numbers are those of the compute API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// Nothing known, or no domain.
    #[default]
    NoState,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Off.
    Shutdown,
    /// Died.
    Crashed,
}

impl PowerState {
    /// The number in `OS-EXT-STS:power_state`.
    pub const fn number(self) -> i32 {
        match self {
            Self::NoState => 0,
            Self::Running => 1,
            Self::Paused => 3,
            Self::Shutdown => 4,
            Self::Crashed => 6,
        }
    }

    /// The state of a number; unknown ones mean that nothing is known.
    pub const fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Running,
            3 => Self::Paused,
            4 => Self::Shutdown,
            6 => Self::Crashed,
            _ => Self::NoState,
        }
    }

    /// The state of a host's word for it.
    pub fn from_report(word: &str) -> Self {
        match word {
            "running" => Self::Running,
            "paused" => Self::Paused,
            "shutdown" => Self::Shutdown,
            "crashed" => Self::Crashed,
            _ => Self::NoState,
        }
    }
}

/// Whether a reboot asks the guest or pulls the plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RebootKind {
    /// Ask the guest; pull the plug if it does not answer.
    Soft,
    /// Pull the plug.
    Hard,
}

/// The two facts that the control plane decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerState {
    /// What the user may rely on.
    pub vm: VmState,
    /// What is being done.
    pub task: Option<TaskState>,
}

/// Something that happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEvent {
    /// Its host is chosen; ports come next.
    HostChosen,
    /// Its ports are there; disk and domain come next.
    NetworkReady,
    /// It runs for the first time.
    Booted,
    /// It will not run; everything is given back.
    BootFailed,
    /// The user wants it on.
    StartAsked,
    /// The user wants it off.
    StopAsked,
    /// The user wants it restarted.
    RebootAsked(RebootKind),
    /// The user wants it frozen.
    PauseAsked,
    /// The user wants it thawed.
    UnpauseAsked,
    /// What was asked for is so.
    TaskDone,
    /// What was asked for is not to be had; the server is as before.
    TaskFailed,
    /// The user wants it gone.
    DeleteAsked,
    /// It is gone.
    DeleteDone,
    /// It could not be removed within the bound.
    DeleteFailed,
    /// An administrator says what it is (`active` or `error`).
    ResetTo(VmState),
    /// The host found it running without having been asked.
    GuestStarted,
    /// The host found it switched off without having been asked.
    GuestStopped,
    /// The host found it frozen without having been asked.
    GuestPaused,
    /// The host found it dead, or does not find it.
    GuestCrashed,
}

/// Why an event cannot happen to a server now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something else is being done to it.
    #[error("it is busy: {0}")]
    Busy(TaskState),
    /// Its state does not allow this.
    #[error("it is {0}")]
    WrongState(VmState),
    /// Its task does not lead there.
    #[error("no task is at work that could end so")]
    NoSuchTask,
    /// It has what was asked for.
    #[error("nothing changes")]
    NothingChanges,
}

/// States from which `os-start` is allowed.
pub const ALLOW_START: &[VmState] = &[VmState::Stopped];
/// States from which `os-stop` is allowed.
pub const ALLOW_STOP: &[VmState] = &[VmState::Active, VmState::Error];
/// States from which a soft reboot is allowed.
pub const ALLOW_SOFT_REBOOT: &[VmState] = &[VmState::Active];
/// States from which a hard reboot is allowed.
pub const ALLOW_HARD_REBOOT: &[VmState] = &[
    VmState::Active,
    VmState::Stopped,
    VmState::Paused,
    VmState::Error,
];
/// States from which `pause` is allowed.
pub const ALLOW_PAUSE: &[VmState] = &[VmState::Active];
/// States from which `unpause` is allowed.
pub const ALLOW_UNPAUSE: &[VmState] = &[VmState::Paused];

impl ServerState {
    /// A server that was just accepted.
    pub const ACCEPTED: Self = Self {
        vm: VmState::Building,
        task: Some(TaskState::Scheduling),
    };

    /// At rest in `vm`.
    pub const fn resting(vm: VmState) -> Self {
        Self { vm, task: None }
    }

    const fn doing(self, task: TaskState) -> Self {
        Self {
            vm: self.vm,
            task: Some(task),
        }
    }

    /// The state after `event`, or why it cannot happen now.
    pub fn after(self, event: ServerEvent) -> Result<Self, Refusal> {
        use ServerEvent as E;
        use TaskState as T;
        use VmState as V;
        match event {
            E::HostChosen => self.on_task(T::Scheduling, self.doing(T::Networking)),
            E::NetworkReady => self.on_task(T::Networking, self.doing(T::Spawning)),
            E::Booted => match self.task {
                Some(T::Scheduling | T::Networking | T::Spawning) => Ok(Self::resting(V::Active)),
                Some(
                    busy @ (T::PoweringOff
                    | T::PoweringOn
                    | T::Rebooting
                    | T::RebootingHard
                    | T::Pausing
                    | T::Unpausing
                    | T::Deleting),
                ) => Err(Refusal::Busy(busy)),
                None => Err(Refusal::NoSuchTask),
            },
            E::BootFailed => match self.task {
                Some(T::Scheduling | T::Networking | T::Spawning) => Ok(Self::resting(V::Error)),
                Some(
                    busy @ (T::PoweringOff
                    | T::PoweringOn
                    | T::Rebooting
                    | T::RebootingHard
                    | T::Pausing
                    | T::Unpausing
                    | T::Deleting),
                ) => Err(Refusal::Busy(busy)),
                None => Err(Refusal::NoSuchTask),
            },
            E::StartAsked => self.ask(ALLOW_START, T::PoweringOn),
            E::StopAsked => self.ask(ALLOW_STOP, T::PoweringOff),
            E::RebootAsked(RebootKind::Soft) => self.ask(ALLOW_SOFT_REBOOT, T::Rebooting),
            E::RebootAsked(RebootKind::Hard) => self.ask(ALLOW_HARD_REBOOT, T::RebootingHard),
            E::PauseAsked => self.ask(ALLOW_PAUSE, T::Pausing),
            E::UnpauseAsked => self.ask(ALLOW_UNPAUSE, T::Unpausing),
            E::TaskDone => match self.task {
                Some(T::PoweringOff) => Ok(Self::resting(V::Stopped)),
                Some(T::PoweringOn | T::Rebooting | T::RebootingHard | T::Unpausing) => {
                    Ok(Self::resting(V::Active))
                }
                Some(T::Pausing) => Ok(Self::resting(V::Paused)),
                Some(busy @ (T::Scheduling | T::Networking | T::Spawning | T::Deleting)) => {
                    Err(Refusal::Busy(busy))
                }
                None => Err(Refusal::NoSuchTask),
            },
            E::TaskFailed => match self.task {
                Some(
                    T::PoweringOff
                    | T::PoweringOn
                    | T::Rebooting
                    | T::RebootingHard
                    | T::Pausing
                    | T::Unpausing,
                ) => Ok(Self::resting(self.vm)),
                Some(busy @ (T::Scheduling | T::Networking | T::Spawning | T::Deleting)) => {
                    Err(Refusal::Busy(busy))
                }
                None => Err(Refusal::NoSuchTask),
            },
            E::DeleteAsked => match (self.vm, self.task) {
                (V::Deleted, _) => Err(Refusal::WrongState(V::Deleted)),
                (_, Some(T::Deleting)) => Err(Refusal::NothingChanges),
                // A deletion overtakes whatever is at work, a boot included.
                (V::Building | V::Active | V::Stopped | V::Paused | V::Error, _) => {
                    Ok(self.doing(T::Deleting))
                }
            },
            E::DeleteDone => self.on_task(T::Deleting, Self::resting(V::Deleted)),
            E::DeleteFailed => self.on_task(T::Deleting, Self::resting(V::Error)),
            E::ResetTo(to) => match (self.vm, to) {
                (V::Deleted, _) => Err(Refusal::WrongState(V::Deleted)),
                (_, V::Active | V::Error) => match self.task {
                    // The workflow that deletes it cannot be called off.
                    Some(T::Deleting) => Err(Refusal::Busy(T::Deleting)),
                    _ => Ok(Self::resting(to)),
                },
                (_, V::Building | V::Stopped | V::Paused | V::Deleted) => {
                    Err(Refusal::WrongState(to))
                }
            },
            E::GuestStarted => self.found(V::Active),
            E::GuestStopped => self.found(V::Stopped),
            E::GuestPaused => self.found(V::Paused),
            // Stopped and not error, so that its owner can simply start it again;
            // the fault that goes with it says what happened.
            E::GuestCrashed => self.found(V::Stopped),
        }
    }

    fn on_task(self, task: TaskState, next: Self) -> Result<Self, Refusal> {
        match self.task {
            Some(now) if now == task => Ok(next),
            Some(now) => Err(Refusal::Busy(now)),
            None => Err(Refusal::NoSuchTask),
        }
    }

    fn ask(self, allowed: &[VmState], task: TaskState) -> Result<Self, Refusal> {
        match self.task {
            Some(now) => Err(Refusal::Busy(now)),
            None if allowed.contains(&self.vm) => Ok(self.doing(task)),
            None => Err(Refusal::WrongState(self.vm)),
        }
    }

    /// A host's own observation. `Error` is left only by requests: what went
    /// wrong must stay visible although the domain may come back.
    fn found(self, vm: VmState) -> Result<Self, Refusal> {
        match (self.vm, self.task) {
            (_, Some(task)) => Err(Refusal::Busy(task)),
            (VmState::Active | VmState::Stopped | VmState::Paused, None) if self.vm == vm => {
                Err(Refusal::NothingChanges)
            }
            (VmState::Active | VmState::Stopped | VmState::Paused, None) => Ok(Self::resting(vm)),
            (VmState::Building | VmState::Error | VmState::Deleted, None) => {
                Err(Refusal::WrongState(self.vm))
            }
        }
    }

    /// The `status` that the compute API shows.
    pub const fn status(self) -> &'static str {
        match (self.vm, self.task) {
            (VmState::Active, Some(TaskState::Rebooting)) => "REBOOT",
            (
                VmState::Active | VmState::Stopped | VmState::Paused | VmState::Error,
                Some(TaskState::RebootingHard),
            ) => "HARD_REBOOT",
            (VmState::Building, _) => "BUILD",
            (VmState::Active, _) => "ACTIVE",
            (VmState::Stopped, _) => "SHUTOFF",
            (VmState::Paused, _) => "PAUSED",
            (VmState::Error, _) => "ERROR",
            (VmState::Deleted, _) => "DELETED",
        }
    }
}

/// The pairs of states that show as `status`, for filters; empty for a status
/// that no server here can have.
pub fn states_of_status(status: &str) -> Vec<ServerState> {
    let mut found = Vec::new();
    for vm in VmState::ALL {
        for task in std::iter::once(None).chain(TaskState::ALL.iter().copied().map(Some)) {
            let state = ServerState { vm: *vm, task };
            if state.status().eq_ignore_ascii_case(status) {
                found.push(state);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = ServerEvent> {
        use ServerEvent as E;
        proptest::sample::select(vec![
            E::HostChosen,
            E::NetworkReady,
            E::Booted,
            E::BootFailed,
            E::StartAsked,
            E::StopAsked,
            E::RebootAsked(RebootKind::Soft),
            E::RebootAsked(RebootKind::Hard),
            E::PauseAsked,
            E::UnpauseAsked,
            E::TaskDone,
            E::TaskFailed,
            E::DeleteAsked,
            E::DeleteDone,
            E::DeleteFailed,
            E::ResetTo(VmState::Active),
            E::ResetTo(VmState::Error),
            E::GuestStarted,
            E::GuestStopped,
            E::GuestPaused,
            E::GuestCrashed,
        ])
    }

    proptest! {
        #[test]
        fn a_server_keeps_its_promises_through_any_sequence(
            events in proptest::collection::vec(any_event(), 0..60)
        ) {
            let mut state = ServerState::ACCEPTED;
            let mut ran = false;
            for event in events {
                let Ok(next) = state.after(event) else { continue };
                // Deleted is the end.
                prop_assert_ne!(state.vm, VmState::Deleted);
                // A host's word never disturbs a task.
                if matches!(
                    event,
                    ServerEvent::GuestStarted | ServerEvent::GuestStopped
                        | ServerEvent::GuestPaused | ServerEvent::GuestCrashed
                ) {
                    prop_assert_eq!(state.task, None);
                    prop_assert_eq!(next.task, None);
                }
                // Only a deletion in progress can end in deleted.
                if next.vm == VmState::Deleted {
                    prop_assert_eq!(state.task, Some(TaskState::Deleting));
                    prop_assert_eq!(next.task, None);
                }
                // Once deleting, nothing but the end of the deletion moves it.
                if state.task == Some(TaskState::Deleting) {
                    prop_assert!(matches!(event, ServerEvent::DeleteDone | ServerEvent::DeleteFailed));
                }
                ran |= next.vm == VmState::Active;
                // Paused and stopped are only reached by a server that ran,
                // and building is never entered again.
                if matches!(next.vm, VmState::Paused | VmState::Stopped) && !ran {
                    // An error that was stopped, or reset, counts as having run.
                    prop_assert!(state.vm == VmState::Error || state.vm == next.vm);
                    ran = true;
                }
                if state.vm != VmState::Building {
                    prop_assert_ne!(next.vm, VmState::Building);
                }
                state = next;
            }
        }

        #[test]
        fn a_deletion_is_accepted_in_every_state_but_deleted(
            events in proptest::collection::vec(any_event(), 0..40)
        ) {
            let mut state = ServerState::ACCEPTED;
            for event in events {
                state = state.after(event).unwrap_or(state);
            }
            match state.after(ServerEvent::DeleteAsked) {
                Ok(next) => prop_assert_eq!(next.task, Some(TaskState::Deleting)),
                Err(refusal) => prop_assert!(
                    refusal == Refusal::NothingChanges
                        || refusal == Refusal::WrongState(VmState::Deleted)
                ),
            }
        }
    }

    #[test]
    fn statuses_are_those_of_the_compute_api() {
        let cases = [
            (VmState::Building, Some(TaskState::Spawning), "BUILD"),
            (VmState::Active, None, "ACTIVE"),
            (VmState::Active, Some(TaskState::PoweringOff), "ACTIVE"),
            (VmState::Active, Some(TaskState::Rebooting), "REBOOT"),
            (
                VmState::Stopped,
                Some(TaskState::RebootingHard),
                "HARD_REBOOT",
            ),
            (VmState::Stopped, None, "SHUTOFF"),
            (VmState::Paused, None, "PAUSED"),
            (VmState::Error, Some(TaskState::Deleting), "ERROR"),
            (VmState::Deleted, None, "DELETED"),
        ];
        for (vm, task, status) in cases {
            let state = ServerState { vm, task };
            assert_eq!(state.status(), status);
            assert!(states_of_status(&status.to_lowercase()).contains(&state));
        }
        assert!(states_of_status("MIGRATING").is_empty());
    }

    #[test]
    fn stop_is_refused_while_a_reboot_is_at_work() {
        let state = ServerState::resting(VmState::Active)
            .after(ServerEvent::RebootAsked(RebootKind::Soft))
            .unwrap();
        assert_eq!(
            state.after(ServerEvent::StopAsked),
            Err(Refusal::Busy(TaskState::Rebooting))
        );
    }

    #[test]
    fn words_round_trip() {
        for vm in VmState::ALL {
            assert_eq!(vm.as_str().parse::<VmState>().unwrap(), *vm);
        }
        for task in TaskState::ALL {
            assert_eq!(task.as_str().parse::<TaskState>().unwrap(), *task);
        }
        assert!("frozen".parse::<VmState>().is_err());
        for number in [0, 1, 3, 4, 6] {
            assert_eq!(PowerState::from_number(number).number(), number);
        }
    }
}
