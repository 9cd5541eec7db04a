//! Random histories against a model of a guest: whatever happens, the owner
//! comes to rest where the wish says, and never does what cannot be undone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use yakumo_compute::decision::{
    Action, Asked, Disk, Domain, Ending, LostGuests, Memory, Observed, PRESS_AGAIN, Plugged, Power,
    Reboot, Run, Wish, accept, next_action, power_state,
};
use yakumo_types::VolumeId;

/// Of the numbers, each two are one volume over two sockets.
fn volume(number: u8) -> Plugged {
    Plugged {
        volume: VolumeId::from_uuid(uuid::Uuid::from_u128(u128::from(number / 2))),
        socket: format!("/run/{number}.sock"),
    }
}

/// What can happen to a server.
#[derive(Debug, Clone)]
enum Event {
    Wish {
        power: Power,
        reboot: Option<Reboot>,
        volumes: BTreeSet<u8>,
    },
    GuestEnds(Ending),
    HostReboots,
    AgentRestarts,
    /// Carries out one action, as the owner does.
    Act,
}

/// A guest, a host and an owner, as small as they can be.
struct Model {
    wish: Wish,
    memory: Memory,
    observed: Observed,
    asked: Option<Asked>,
    obeys: bool,
    disks_built: u32,
    starts: u32,
    /// Starts that a wish, a reboot of it or the host's own loss allows.
    allowed_starts: u32,
    removed: bool,
}

impl Model {
    fn new(obeys: bool) -> Self {
        Self {
            wish: Wish {
                generation: 1,
                power: Power::Running,
                reboot_count: 0,
                reboot: Reboot::Soft,
                volumes: BTreeSet::new(),
                grace: Duration::from_secs(60),
            },
            memory: Memory::default(),
            observed: Observed::absent(),
            asked: None,
            obeys,
            disks_built: 0,
            starts: 0,
            allowed_starts: 1,
            removed: false,
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Wish {
                power,
                reboot,
                volumes,
            } => {
                if self.wish.power == Power::Absent {
                    return;
                }
                self.wish.generation += 1;
                self.wish.power = *power;
                if let Some(reboot) = reboot {
                    self.wish.reboot_count += 1;
                    self.wish.reboot = *reboot;
                }
                let wanted: BTreeMap<_, _> = volumes
                    .iter()
                    .map(|number| (volume(*number).volume, volume(*number)))
                    .collect();
                self.wish.volumes = wanted.into_values().collect();
                self.memory = accept(&self.memory, &self.wish);
                self.allowed_starts += 1;
            }
            Event::GuestEnds(ending) => {
                if matches!(self.observed.domain, Domain::Running | Domain::Paused) {
                    self.observed.domain = Domain::Off(*ending);
                    self.observed.volumes.clear();
                    if *ending == Ending::Unknown {
                        self.allowed_starts += 1;
                    }
                }
            }
            Event::HostReboots => {
                self.apply(&Event::GuestEnds(Ending::Unknown));
                self.apply(&Event::AgentRestarts);
            }
            Event::AgentRestarts => {
                let may_obey = self.memory.disk == Disk::Built && self.memory.run == Run::Due;
                self.asked = may_obey.then_some(Asked {
                    elapsed: Duration::ZERO,
                    since_last: PRESS_AGAIN,
                });
            }
            Event::Act => {
                self.act();
            }
        }
    }

    /// One decision and its execution; returns what was decided.
    fn act(&mut self) -> Action {
        let action = next_action(
            &self.wish,
            &self.memory,
            &self.observed,
            self.asked,
            LostGuests::Resume,
        );
        let running = matches!(self.observed.domain, Domain::Running | Domain::Paused);
        match &action {
            Action::Rest => {
                if !running {
                    self.asked = None;
                }
            }
            Action::Remember(memory) => {
                assert_ne!(*memory, self.memory, "remembering must change something");
                self.memory = memory.clone();
            }
            Action::Build => {
                assert!(!running && !self.removed);
                assert_ne!(self.wish.power, Power::Absent);
                self.disks_built += 1;
                self.memory.disk = Disk::Built;
            }
            Action::Start => {
                assert!(!running, "a running guest is never started");
                assert!(matches!(self.wish.power, Power::Running | Power::Paused));
                assert_eq!(self.memory.disk, Disk::Built);
                self.starts += 1;
                self.observed.domain = Domain::Running;
                self.observed.volumes = self.wish.volumes.clone();
                self.memory.run = Run::Started;
                self.asked = None;
            }
            Action::AskToStop => {
                assert_eq!(self.observed.domain, Domain::Running);
                let elapsed = self.asked.map_or(Duration::ZERO, |asked| asked.elapsed);
                self.asked = Some(Asked {
                    elapsed,
                    since_last: Duration::ZERO,
                });
                self.allowed_starts += 1;
                if self.obeys {
                    self.observed.domain = Domain::Off(Ending::Guest);
                    self.observed.volumes.clear();
                }
            }
            Action::Wait(left) => {
                assert!(*left <= self.wish.grace);
                assert!(!left.is_zero());
                self.asked = self.asked.map(|asked| Asked {
                    elapsed: asked.elapsed + *left,
                    since_last: asked.since_last + *left,
                });
            }
            Action::PullPlug => {
                assert!(running);
                let elapsed = self.asked.map_or(Duration::ZERO, |asked| asked.elapsed);
                self.asked = Some(Asked {
                    elapsed,
                    since_last: Duration::ZERO,
                });
                self.observed.domain = Domain::Off(Ending::Destroyed);
                self.observed.volumes.clear();
            }
            Action::Pause => {
                assert_eq!(self.observed.domain, Domain::Running);
                self.observed.domain = Domain::Paused;
            }
            Action::Resume => {
                assert_eq!(self.observed.domain, Domain::Paused);
                self.observed.domain = Domain::Running;
            }
            Action::Attach(volume) => {
                let has = |set: &BTreeSet<Plugged>| {
                    set.iter()
                        .find(|plugged| plugged.volume == *volume)
                        .cloned()
                };
                assert!(running && has(&self.observed.volumes).is_none());
                let wanted = has(&self.wish.volumes).expect("it is wanted");
                self.observed.volumes.insert(wanted);
            }
            Action::Detach(volume) => {
                let before = self.observed.volumes.len();
                let wanted = &self.wish.volumes;
                assert!(running);
                self.observed
                    .volumes
                    .retain(|plugged| plugged.volume != *volume || wanted.contains(plugged));
                assert_eq!(self.observed.volumes.len() + 1, before);
            }
            Action::Remove => {
                assert_eq!(self.wish.power, Power::Absent);
                self.observed = Observed::absent();
                self.memory = Memory {
                    disk: Disk::Removed,
                    ..Memory::default()
                };
                self.removed = true;
            }
        }
        action
    }

    fn settle(&mut self) {
        for _ in 0..40 {
            if self.act() == Action::Rest {
                return;
            }
        }
        panic!(
            "it never comes to rest: {:?} {:?}",
            self.wish, self.observed
        );
    }

    fn check_rest(&self) {
        let running = matches!(self.observed.domain, Domain::Running | Domain::Paused);
        match self.wish.power {
            Power::Absent => assert!(self.removed && !running),
            Power::Stopped => {
                assert!(!running);
                assert_ne!(power_state(&self.memory, &self.observed), "running");
            }
            Power::Running | Power::Paused => {
                if let Run::Ended(_) = self.memory.run {
                    assert!(!running, "it ended by itself and stays off");
                } else {
                    let wanted = match self.wish.power {
                        Power::Paused => Domain::Paused,
                        _ => Domain::Running,
                    };
                    assert_eq!(self.observed.domain, wanted);
                    assert_eq!(self.observed.volumes, self.wish.volumes);
                }
                assert_eq!(self.memory.reboots_done, self.wish.reboot_count);
            }
        }
        assert!(
            self.disks_built <= 1,
            "a second disk would lose the first one's data"
        );
        assert!(
            self.starts <= self.allowed_starts,
            "{} starts, {} allowed",
            self.starts,
            self.allowed_starts
        );
    }
}

fn event() -> impl Strategy<Value = Event> {
    let power = prop_oneof![
        4 => Just(Power::Running),
        2 => Just(Power::Stopped),
        2 => Just(Power::Paused),
        1 => Just(Power::Absent),
    ];
    let reboot = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Reboot::Soft)),
        1 => Just(Some(Reboot::Hard)),
    ];
    let volumes = prop::collection::btree_set(0u8..6, 0..4);
    let ending = prop_oneof![
        Just(Ending::Guest),
        Just(Ending::Crashed),
        Just(Ending::Destroyed),
        Just(Ending::Unknown),
    ];
    prop_oneof![
        3 => (power, reboot, volumes).prop_map(|(power, reboot, volumes)| Event::Wish {
            power,
            reboot,
            volumes,
        }),
        1 => ending.prop_map(Event::GuestEnds),
        1 => Just(Event::HostReboots),
        1 => Just(Event::AgentRestarts),
        8 => Just(Event::Act),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_comes_to_rest_where_the_wish_says(
        obeys in any::<bool>(),
        events in prop::collection::vec(event(), 0..40),
    ) {
        let mut model = Model::new(obeys);
        for event in &events {
            model.apply(event);
        }
        model.settle();
        model.check_rest();
        // Rest is stable: nothing happens without a reason.
        prop_assert_eq!(model.act(), Action::Rest);
    }

    #[test]
    fn a_reboot_is_done_once_even_if_the_agent_dies_at_any_point(
        hard in any::<bool>(),
        obeys in any::<bool>(),
        deaths in prop::collection::vec(any::<bool>(), 12),
    ) {
        let mut model = Model::new(obeys);
        model.settle();
        model.apply(&Event::Wish {
            power: Power::Running,
            reboot: Some(if hard { Reboot::Hard } else { Reboot::Soft }),
            volumes: BTreeSet::new(),
        });
        for dies in deaths {
            model.act();
            if dies {
                model.apply(&Event::AgentRestarts);
            }
        }
        model.settle();
        model.check_rest();
        prop_assert_eq!(model.starts, 2);
    }
}

#[test]
fn a_guest_that_switched_itself_off_stays_off_until_it_is_asked_for_again() {
    let mut model = Model::new(true);
    model.settle();
    model.apply(&Event::GuestEnds(Ending::Guest));
    model.settle();
    assert_eq!(power_state(&model.memory, &model.observed), "shutdown");
    // A host reboot later on does not make it wanted.
    model.observed.domain = Domain::Off(Ending::Unknown);
    model.settle();
    assert_eq!(model.starts, 1);
    model.apply(&Event::Wish {
        power: Power::Running,
        reboot: None,
        volumes: BTreeSet::new(),
    });
    model.settle();
    assert_eq!(model.starts, 2);
}

#[test]
fn a_guest_that_was_switched_off_runs_again_for_the_wish_that_overtook_it() {
    let wish = |power, reboot| Event::Wish {
        power,
        reboot,
        volumes: BTreeSet::new(),
    };
    let minute = Duration::from_secs(60);
    for (before, grace, expected, dies) in [
        (Power::Running, minute, Action::AskToStop, false),
        (Power::Running, minute, Action::AskToStop, true),
        (Power::Running, Duration::ZERO, Action::PullPlug, false),
        (Power::Running, Duration::ZERO, Action::PullPlug, true),
        (Power::Paused, minute, Action::PullPlug, false),
        (Power::Paused, minute, Action::PullPlug, true),
    ] {
        let mut model = Model::new(true);
        model.apply(&wish(before, None));
        model.settle();
        model.wish.grace = grace;
        model.apply(&wish(Power::Stopped, None));
        let case = format!("{before:?} {grace:?}, the agent dies: {dies}");
        assert!(matches!(model.act(), Action::Remember(_)), "{case}");
        assert_eq!(model.act(), expected, "{case}");
        if dies {
            model.apply(&Event::AgentRestarts);
        }
        model.apply(&wish(Power::Running, None));
        assert_eq!(model.act(), Action::Start, "{case}");
        model.settle();
        model.check_rest();
        assert_eq!(model.observed.domain, Domain::Running);
    }

    // One that takes its time obeys when nobody is left who asked it.
    let mut model = Model::new(false);
    model.settle();
    model.apply(&wish(Power::Stopped, None));
    assert!(matches!(model.act(), Action::Remember(_)));
    assert_eq!(model.act(), Action::AskToStop);
    model.apply(&wish(Power::Running, None));
    assert_eq!(model.act(), Action::Rest);
    model.apply(&Event::AgentRestarts);
    assert_eq!(model.act(), Action::Rest);
    model.apply(&Event::GuestEnds(Ending::Guest));
    assert_eq!(model.act(), Action::Start);
    model.settle();
    model.check_rest();
    // Once it has run on for long enough, it runs like any other.
    let mut model = Model::new(false);
    model.settle();
    model.apply(&wish(Power::Stopped, None));
    model.act();
    assert_eq!(model.act(), Action::AskToStop);
    model.apply(&wish(Power::Running, None));
    model.asked = None;
    model.settle();
    model.apply(&Event::GuestEnds(Ending::Guest));
    model.settle();
    assert_eq!(power_state(&model.memory, &model.observed), "shutdown");

    // A reboot that is overtaken by one is done with it, and the guest starts once.
    let mut model = Model::new(true);
    model.settle();
    model.apply(&wish(Power::Running, Some(Reboot::Hard)));
    assert_eq!(model.act(), Action::PullPlug);
    model.apply(&wish(Power::Running, Some(Reboot::Soft)));
    model.settle();
    model.check_rest();
    assert_eq!(model.observed.domain, Domain::Running);
    assert_eq!(model.starts, 2);
}

#[test]
fn a_crashed_guest_is_reported_as_crashed_even_after_the_hypervisor_forgot_why() {
    let mut model = Model::new(true);
    model.settle();
    model.apply(&Event::GuestEnds(Ending::Crashed));
    model.settle();
    model.observed.domain = Domain::Off(Ending::Unknown);
    assert_eq!(power_state(&model.memory, &model.observed), "crashed");
    assert_eq!(model.act(), Action::Rest);
}

#[test]
fn a_lost_guest_is_left_off_where_the_operator_wants_that() {
    let mut model = Model::new(true);
    model.settle();
    model.observed.domain = Domain::Off(Ending::Unknown);
    let action = next_action(
        &model.wish,
        &model.memory,
        &model.observed,
        None,
        LostGuests::LeaveOff,
    );
    assert!(matches!(
        action,
        Action::Remember(Memory {
            run: Run::Ended(Ending::Unknown),
            ..
        })
    ));
}
