//! What to do next for one server: a pure function of what is wanted, what
//! the agent remembers and what the hypervisor shows.
//!
//! ```text
//!              Build            Start                PullPlug, guest off
//!   (nothing) ───────► built ─────────► running ─────────────────────► off
//!                                        ▲   │ Pause                    │
//!                                 Resume │   ▼                          │
//!                                       paused                          │
//!                                        ▲                              │
//!                                        └──────── Start ◄──────────────┘
//!   every state ── Remove ──► removed (a tombstone until it is confirmed)
//! ```
//!
//! Nobody but [`next_action`] decides; the owner task only carries out. Ground
//! rules:
//!
//! - A guest that ended by itself stays off and is reported: whether it runs
//!   again is the control plane's decision, made by a new generation.
//! - A guest that the *host* lost (power cut, run-time state gone) is started
//!   again, because nobody asked it to end. The sign of it: the agent remembers
//!   it as started, and the hypervisor knows no reason why it is off.
//! - A reboot is taken note of while the guest is off and before it is started
//!   again, so that an agent that dies in between neither forgets it nor does
//!   it twice.
//! - A stop is taken note of before the guest is switched off, so that an agent
//!   that dies meanwhile does not take it, under a newer wish, for one that ended
//!   by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yakumo_types::VolumeId;

/// What a server is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    Running,
    /// It is off; disk and claim are kept.
    Stopped,
    /// It is frozen in memory.
    Paused,
    /// Nothing is left of it.
    Absent,
}

/// How a reboot is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reboot {
    /// The guest is asked, and has the grace period to obey.
    Soft,
    /// The plug is pulled.
    Hard,
}

/// A volume in a guest. Over another socket the same volume is that of another
/// attachment, and what is plugged in over one that has ended leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plugged {
    /// Which volume.
    pub volume: VolumeId,
    /// Where its export listens.
    pub socket: String,
}

/// The part of a desired state that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Orders wishes.
    pub generation: u64,
    /// What the server is to be.
    pub power: Power,
    /// How many reboots were asked for since the server was made.
    pub reboot_count: u64,
    /// How the last of them is to be done.
    pub reboot: Reboot,
    /// Volumes that the guest is to have.
    pub volumes: BTreeSet<Plugged>,
    /// How long a guest may take to obey; zero pulls the plug.
    pub grace: Duration,
}

/// Why a guest is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It switched itself off.
    Guest,
    /// Its process died or was killed.
    Crashed,
    /// Somebody pulled the plug.
    Destroyed,
    /// The hypervisor does not know; after a host reboot it never does.
    Unknown,
}

/// What the hypervisor shows of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// It knows nothing of that name.
    Absent,
    /// Known and off.
    Off(Ending),
    /// Runs.
    Running,
    /// Frozen.
    Paused,
}

/// Everything that is seen of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The domain.
    pub domain: Domain,
    /// Volumes that the running domain holds; empty while it is off.
    pub volumes: BTreeSet<Plugged>,
    /// Whether it is the hypervisor that has frozen the guest, since a disk took
    /// no data: the host's is full.
    pub starved: bool,
}

impl Observed {
    /// Nothing there.
    pub fn absent() -> Self {
        Self {
            domain: Domain::Absent,
            volumes: BTreeSet::new(),
            starved: false,
        }
    }
}

/// Whether disk and config drive were finished once. They are never made
/// twice: the second time would wipe the guest's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// Not yet.
    #[default]
    Missing,
    /// There.
    Built,
    /// Gone with everything else.
    Removed,
}

/// What became of the run that the present wish asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// It is still to be started.
    #[default]
    Due,
    /// It was started, and nothing else was seen since.
    Started,
    /// It was started and ended by itself.
    Ended(Ending),
}

/// A step that can fail for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// [`Action::Build`].
    Build,
    /// [`Action::Start`].
    Start,
    /// [`Action::AskToStop`].
    AskToStop,
    /// [`Action::PullPlug`].
    PullPlug,
    /// [`Action::Pause`].
    Pause,
    /// [`Action::Resume`].
    Resume,
    /// [`Action::Attach`].
    Attach,
    /// [`Action::Detach`].
    Detach,
    /// [`Action::Remove`].
    Remove,
}

/// A step that is not tried again for its generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GaveUp {
    /// For which wish.
    pub generation: u64,
    /// Which step.
    pub step: Step,
    /// Why, for a person.
    pub fault: String,
}

/// What the agent writes down about a server, besides the wish itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The disk.
    pub disk: Disk,
    /// The run.
    pub run: Run,
    /// Reboots that were done.
    pub reboots_done: u64,
    /// What is not tried again.
    pub gave_up: Option<GaveUp>,
}

/// A guest that was asked to switch off, and still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// How long ago it was asked first.
    pub elapsed: Duration,
    /// How long ago it was asked last.
    pub since_last: Duration,
}

/// How often a power button is pressed: a guest that is still booting does
/// not notice the first time.
pub const PRESS_AGAIN: Duration = Duration::from_secs(10);

/// What to do with a guest that the host lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostGuests {
    /// Start it again.
    Resume,
    /// Leave it off and report it.
    LeaveOff,
}

/// What the owner task is to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something changes.
    Rest,
    /// Write this down, then ask again.
    Remember(Memory),
    /// Make disk and config drive.
    Build,
    /// Define the domain by the present wish and switch it on.
    Start,
    /// Press the power button.
    AskToStop,
    /// Give the guest that much more time to obey.
    Wait(Duration),
    /// Switch off at once.
    PullPlug,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Plug a volume in.
    Attach(VolumeId),
    /// Take a volume away.
    Detach(VolumeId),
    /// Remove domain, disk, log and everything else.
    Remove,
}

impl Action {
    /// The step that this action is, if it can fail.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Rest | Self::Remember(_) | Self::Wait(_) => None,
            Self::Build => Some(Step::Build),
            Self::Start => Some(Step::Start),
            Self::AskToStop => Some(Step::AskToStop),
            Self::PullPlug => Some(Step::PullPlug),
            Self::Pause => Some(Step::Pause),
            Self::Resume => Some(Step::Resume),
            Self::Attach(_) => Some(Step::Attach),
            Self::Detach(_) => Some(Step::Detach),
            Self::Remove => Some(Step::Remove),
        }
    }
}

/// Decides. `asked` says whether the guest was asked to switch off.
pub fn next_action(
    wish: &Wish,
    memory: &Memory,
    observed: &Observed,
    asked: Option<Asked>,
    lost: LostGuests,
) -> Action {
    let action = match wish.power {
        Power::Absent => match memory.disk {
            Disk::Removed => Action::Rest,
            Disk::Missing | Disk::Built => Action::Remove,
        },
        Power::Stopped => towards_stopped(wish, memory, observed, asked),
        Power::Running | Power::Paused => towards_running(wish, memory, observed, asked, lost),
    };
    match (&memory.gave_up, action.step()) {
        (Some(gave_up), Some(step))
            if gave_up.generation == wish.generation && gave_up.step == step =>
        {
            Action::Rest
        }
        _ => action,
    }
}

fn towards_stopped(
    wish: &Wish,
    memory: &Memory,
    observed: &Observed,
    asked: Option<Asked>,
) -> Action {
    match observed.domain {
        Domain::Absent | Domain::Off(_) => {
            let settled = Memory {
                run: Run::Due,
                reboots_done: wish.reboot_count,
                ..memory.clone()
            };
            if settled == *memory {
                Action::Rest
            } else {
                Action::Remember(settled)
            }
        }
        Domain::Running | Domain::Paused if memory.run != Run::Due => Action::Remember(Memory {
            run: Run::Due,
            ..memory.clone()
        }),
        // A frozen guest hears no power button.
        Domain::Paused => Action::PullPlug,
        Domain::Running => switch_off(wish.grace, asked),
    }
}

fn towards_running(
    wish: &Wish,
    memory: &Memory,
    observed: &Observed,
    asked: Option<Asked>,
    lost: LostGuests,
) -> Action {
    let reboot_due = wish.reboot_count > memory.reboots_done;
    let remember = |run: Run| {
        Action::Remember(Memory {
            run,
            ..memory.clone()
        })
    };
    match observed.domain {
        Domain::Absent | Domain::Off(_) if memory.disk != Disk::Built => Action::Build,
        Domain::Absent | Domain::Off(_) if reboot_due => Action::Remember(Memory {
            run: Run::Due,
            reboots_done: wish.reboot_count,
            ..memory.clone()
        }),
        Domain::Absent | Domain::Off(_) => {
            let ending = match observed.domain {
                Domain::Off(ending) => ending,
                Domain::Absent | Domain::Running | Domain::Paused => Ending::Unknown,
            };
            match (memory.run, ending, lost) {
                (Run::Due, _, _) => Action::Start,
                (Run::Ended(_), _, _) => Action::Rest,
                // It obeyed a wish that was overtaken meanwhile.
                (Run::Started, _, _) if asked.is_some() => Action::Start,
                (Run::Started, Ending::Unknown, LostGuests::Resume) => Action::Start,
                (Run::Started, ending, _) => remember(Run::Ended(ending)),
            }
        }
        Domain::Running | Domain::Paused if memory.disk != Disk::Built => {
            Action::Remember(Memory {
                disk: Disk::Built,
                ..memory.clone()
            })
        }
        Domain::Running if reboot_due => match wish.reboot {
            Reboot::Hard => Action::PullPlug,
            Reboot::Soft => switch_off(wish.grace, asked),
        },
        Domain::Paused if reboot_due => Action::PullPlug,
        // One that was asked to switch off may still obey.
        Domain::Running | Domain::Paused if memory.run != Run::Started && asked.is_none() => {
            remember(Run::Started)
        }
        Domain::Running if wish.power == Power::Paused => Action::Pause,
        Domain::Paused if wish.power == Power::Running => Action::Resume,
        Domain::Running | Domain::Paused => volumes(wish, observed),
    }
}

fn switch_off(grace: Duration, asked: Option<Asked>) -> Action {
    match asked {
        _ if grace.is_zero() => Action::PullPlug,
        None => Action::AskToStop,
        Some(asked) if asked.elapsed >= grace => Action::PullPlug,
        Some(asked) if asked.since_last >= PRESS_AGAIN => Action::AskToStop,
        Some(asked) => Action::Wait(
            grace
                .saturating_sub(asked.elapsed)
                .min(PRESS_AGAIN.saturating_sub(asked.since_last)),
        ),
    }
}

/// Takes away before it plugs in: a device name may have changed hands.
fn volumes(wish: &Wish, observed: &Observed) -> Action {
    if let Some(surplus) = observed.volumes.difference(&wish.volumes).next() {
        return Action::Detach(surplus.volume);
    }
    match wish.volumes.difference(&observed.volumes).next() {
        Some(missing) => Action::Attach(missing.volume),
        None => Action::Rest,
    }
}

/// What a newly accepted wish changes in the memory of the one before it: a
/// guest that ended by itself is to run again if the new wish says so.
pub fn accept(memory: &Memory, wish: &Wish) -> Memory {
    let run = match (memory.run, wish.power) {
        (Run::Ended(_), Power::Running | Power::Paused) => Run::Due,
        (run, _) => run,
    };
    Memory {
        run,
        gave_up: None,
        ..memory.clone()
    }
}

/// The power state in the words of the compute API.
pub fn power_state(memory: &Memory, observed: &Observed) -> &'static str {
    match (observed.domain, memory.run) {
        (Domain::Running, _) => "running",
        (Domain::Paused, _) => "paused",
        (Domain::Absent, _) if memory.disk != Disk::Built => "nostate",
        // The hypervisor forgets why a guest is off; the agent does not.
        (_, Run::Ended(Ending::Crashed)) => "crashed",
        (_, Run::Ended(Ending::Guest | Ending::Destroyed | Ending::Unknown)) => "shutdown",
        (Domain::Off(Ending::Crashed), _) => "crashed",
        (Domain::Off(_) | Domain::Absent, _) => "shutdown",
    }
}
