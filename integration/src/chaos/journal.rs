//! What one user was told.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Whether something was removed, as far as its user knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Removed {
    #[default]
    No,
    /// It was asked for, and the answer was lost.
    Maybe,
    Yes,
}

/// A server.
#[derive(Debug, Clone, Default)]
pub struct Server {
    pub removed: Removed,
    /// What it may be, besides in error.
    pub states: BTreeSet<&'static str>,
    /// What was asked for in a way that may still be heard late: by a process
    /// that was stopped when it came.
    pub late: BTreeSet<&'static str>,
}

/// That a volume is to be attached or detached: accepted, and not seen to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whether it is to be attached.
    pub attach: bool,
    pub server: String,
    /// What the accepted request is called.
    pub request: String,
}

impl Asked {
    /// Where the volume is if nothing comes of it.
    fn otherwise(&self) -> Option<&str> {
        (!self.attach).then_some(self.server.as_str())
    }

    /// Why nothing came of it, if the actions on the server say so. The answer may
    /// have been that to a repetition: whichever try was heard first has the action
    /// then, and any of them may be meant that no request of this name explains.
    pub fn failure<'a>(&self, actions: &'a [Value]) -> Option<&'a str> {
        let kind = match self.attach {
            true => "attach_volume",
            false => "detach_volume",
        };
        let of_kind = actions.iter().filter(|action| action["action"] == kind);
        let of_kind: Vec<&'a Value> = of_kind.collect();
        let why = |action: &'a Value| {
            let message = action["message"].as_str();
            message.filter(|message| !message.is_empty())
        };
        let mut all = of_kind.iter().copied();
        match all.find(|action| action["request_id"] == self.request) {
            Some(own) => why(own),
            None => of_kind.into_iter().find_map(why),
        }
    }
}

/// A volume.
#[derive(Debug, Clone, Default)]
pub struct Volume {
    pub removed: Removed,
    /// The servers that it may be attached to; none if it may be free.
    pub servers: BTreeSet<Option<String>>,
    /// As with servers.
    pub late: BTreeSet<Option<String>>,
    /// What may still be shown to have failed. It is free then, or where it was.
    pub asked: Vec<Asked>,
}

impl Volume {
    /// One that is at this server and nowhere else, or free.
    pub fn at(server: Option<String>) -> Self {
        Self {
            servers: BTreeSet::from([server]),
            ..Self::default()
        }
    }

    /// It was seen there.
    pub fn seen(&mut self, server: Option<String>) {
        self.servers = BTreeSet::from([server]);
        self.asked.clear();
    }

    /// Its attachment was accepted: nothing else has it.
    pub fn attaches(&mut self, server: &str, request: String) {
        self.seen(Some(server.to_owned()));
        self.asked.push(Asked {
            attach: true,
            server: server.to_owned(),
            request,
        });
    }

    /// Its detachment was accepted. If that happens twice, the second one may have
    /// joined the first.
    pub fn detaches(&mut self, server: &str, request: String) {
        self.servers = BTreeSet::from([None]);
        self.asked.retain(|asked| !asked.attach);
        self.asked.push(Asked {
            attach: false,
            server: server.to_owned(),
            request,
        });
    }

    /// A server is removed, or may be.
    pub fn loses(&mut self, server: &str, removed: Removed) {
        let here = Some(server.to_owned());
        if self.servers.contains(&here) {
            self.servers.insert(None);
        }
        if removed == Removed::Yes {
            self.servers.remove(&here);
            self.late.remove(&here);
            self.asked.retain(|asked| asked.server != server);
        }
    }

    /// A server that may have it.
    pub fn holder(&self) -> Option<&str> {
        let told = self.servers.iter().chain(&self.late).flatten();
        let asked = self.asked.iter().map(|asked| &asked.server);
        told.chain(asked).next().map(String::as_str)
    }

    /// Whether it may be there, whatever failed.
    pub fn may_be(&self, server: Option<&str>) -> bool {
        let mut all = self.servers.iter().chain(&self.late);
        all.any(|it| it.as_deref() == server)
    }

    /// What must have failed if it is there.
    pub fn unless_failed(&self, server: Option<&str>) -> Vec<Asked> {
        let all = self.asked.iter();
        all.filter(|asked| asked.otherwise() == server)
            .cloned()
            .collect()
    }
}

/// A port that was made by itself, or a floating IP.
#[derive(Debug, Clone, Default)]
pub struct Other {
    pub removed: Removed,
    /// What it may point to.
    pub targets: BTreeSet<Option<String>>,
    /// As with servers.
    pub late: BTreeSet<Option<String>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Journal {
    pub project: String,
    pub servers: BTreeMap<String, Server>,
    pub volumes: BTreeMap<String, Volume>,
    pub ports: BTreeMap<String, Other>,
    pub floating_ips: BTreeMap<String, Other>,
    /// Names of things that were asked for, without any answer to the end.
    pub unanswered: BTreeSet<String>,
    /// Volumes and their attachments that were accepted and did not last, though
    /// nobody asked for that: each must be shown to have failed.
    pub undone: Vec<(String, Asked)>,
    pub violations: Vec<String>,
    pub notes: Vec<String>,
}

impl Journal {
    /// The API took a volume for free. Whether it may be is seen here: after that,
    /// nothing that is there tells.
    pub fn found_free(&mut self, id: &str) {
        let Some(volume) = self.volumes.get(id) else {
            return;
        };
        if volume.may_be(None) {
            return;
        }
        let failed = volume.unless_failed(None);
        if failed.is_empty() {
            let told = &volume.servers;
            self.violations.push(format!(
                "volume {id} was taken for free; its user knew {told:?}"
            ));
        }
        let failed = failed.into_iter().map(|asked| (id.to_owned(), asked));
        self.undone.extend(failed);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(attach: bool, request: &str) -> Asked {
        Asked {
            attach,
            server: "a".into(),
            request: request.into(),
        }
    }

    fn action(kind: &str, request: &str, message: Value) -> Value {
        json!({"action": kind, "request_id": request, "message": message})
    }

    #[test]
    fn what_failed_is_known_by_its_request() {
        let actions = [
            action("detach_volume", "req-3", Value::Null),
            action("attach_volume", "req-2", json!("no room")),
            action("attach_volume", "req-1", Value::Null),
        ];
        assert_eq!(asked(true, "req-1").failure(&actions), None);
        assert_eq!(asked(true, "req-2").failure(&actions), Some("no room"));
        // An earlier try was the one that was heard.
        assert_eq!(asked(true, "req-9").failure(&actions), Some("no room"));
        assert_eq!(asked(false, "req-3").failure(&actions), None);
        assert_eq!(asked(false, "req-9").failure(&actions), None);
        let unexplained = [action("attach_volume", "req-1", json!(""))];
        assert_eq!(asked(true, "req-1").failure(&unexplained), None);
    }

    #[test]
    fn an_accepted_attachment_holds_until_its_end_is_asked_for() {
        let mut volume = Volume::at(None);
        volume.attaches("a", "req-1".into());
        assert!(volume.may_be(Some("a")) && !volume.may_be(None));
        // Free only if that failed.
        assert_eq!(volume.unless_failed(None), [asked(true, "req-1")]);
        volume.seen(Some("a".into()));
        assert!(!volume.may_be(None) && volume.unless_failed(None).is_empty());

        volume.detaches("a", "req-2".into());
        assert!(volume.may_be(None) && !volume.may_be(Some("a")));
        assert_eq!(volume.unless_failed(Some("a")), [asked(false, "req-2")]);
        assert!(volume.unless_failed(Some("b")).is_empty());
        assert_eq!(volume.holder(), Some("a"));
        volume.seen(None);
        assert!(volume.unless_failed(Some("a")).is_empty());
        assert_eq!(volume.holder(), None);
    }

    #[test]
    fn what_may_be_heard_late_and_what_goes_with_a_server_may_be() {
        let mut volume = Volume::at(Some("a".into()));
        volume.late.insert(None);
        assert!(volume.may_be(None) && volume.may_be(Some("a")));

        let mut volume = Volume::at(Some("a".into()));
        volume.loses("b", Removed::Yes);
        assert!(!volume.may_be(None));
        volume.loses("a", Removed::Maybe);
        assert!(volume.may_be(None) && volume.may_be(Some("a")));
        volume.loses("a", Removed::Yes);
        assert!(volume.may_be(None) && !volume.may_be(Some("a")));

        let mut volume = Volume::at(None);
        volume.attaches("a", "req-1".into());
        volume.loses("a", Removed::Yes);
        assert!(volume.may_be(None) && volume.asked.is_empty());
    }

    #[test]
    fn a_volume_that_turns_out_to_be_free_must_have_a_reason() {
        let mut journal = Journal::default();
        let mut tried = Volume::at(None);
        tried.attaches("a", "req-1".into());
        let mut given_back = Volume::at(Some("a".into()));
        given_back.detaches("a", "req-2".into());
        journal.volumes.insert("tried".into(), tried);
        journal.volumes.insert("given back".into(), given_back);
        journal.volumes.insert("free".into(), Volume::at(None));
        let held = Volume::at(Some("a".into()));
        journal.volumes.insert("held".into(), held);
        for id in ["tried", "given back", "free"] {
            journal.found_free(id);
        }
        assert!(journal.violations.is_empty(), "{:?}", journal.violations);
        let undone = [("tried".to_owned(), asked(true, "req-1"))];
        assert_eq!(journal.undone, undone);
        journal.found_free("held");
        assert_eq!(journal.violations.len(), 1);
        assert_eq!(journal.undone.len(), 1);
    }
}
