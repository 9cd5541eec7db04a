//! What a host may do on the broker: read its own queue and its own replies,
//! and write to the two exchanges through which hosts speak. It can neither
//! declare, read nor fill another one's queue, hear what others report, answer
//! in a control service's place, nor send to a control service other than
//! through the exchange whose messages are marked with its own name.
//!
//! Dots in names are written as `[.]` in the patterns, and private queues end in 32
//! hexadecimal digits, so that no host's pattern covers another host's name.

use crate::address::is_host_name;
use crate::amqp::layout::{REPLY, REPORT};
use crate::error::RpcError;

/// The user of a host, with the arguments of four runs of `rabbitmqctl` that
/// make it or bring it up to date. The password goes in on standard input (the
/// commands are `add_user` or `change_password`, which read it there when it is
/// not among the arguments).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUser {
    /// The user's name, and the AMQP `user_id` of everything that it sends.
    pub user: String,
    /// What it may do.
    pub rights: BrokerRights,
    /// Makes the user; fails if it exists.
    pub add: Vec<String>,
    /// Changes the password of one that exists.
    pub change_password: Vec<String>,
    /// To be run in this order afterwards; each may be repeated.
    pub permissions: Vec<Vec<String>>,
}

/// Regular expressions for names of queues and exchanges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRights {
    /// What it may declare and delete.
    pub configure: String,
    /// Where it may write.
    pub write: String,
    /// What it may read.
    pub read: String,
    /// On topic exchanges, which keys.
    pub topics: Vec<TopicRights>,
}

/// Regular expressions for the keys of one topic exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRights {
    /// The exchange.
    pub exchange: &'static str,
    /// Keys that it may write under.
    pub write: &'static str,
    /// Keys that it may bind to.
    pub read: &'static str,
}

/// The name of a host's user.
pub(crate) fn user_of(name: &str) -> Result<String, RpcError> {
    if !is_host_name(name) {
        return Err(RpcError::Refused(format!("{name:?} is no name for a host")));
    }
    Ok(format!("host.{name}"))
}

/// The user of the host `name` in a virtual host.
pub fn broker_user_for_host(name: &str, vhost: &str) -> Result<BrokerUser, RpcError> {
    let user = user_of(name)?;
    // Nothing else in a host's name has a meaning in a pattern.
    let escaped = name.replace('.', "[.]");
    let own = format!("^(host[.]{escaped}|host-reply[.]{escaped}[.][0-9a-f]{{32}})$");
    let exchanges = format!(
        "^({}|{})$",
        REPORT.replace('.', "[.]"),
        REPLY.replace('.', "[.]")
    );
    let rights = BrokerRights {
        configure: own.clone(),
        write: exchanges,
        read: own,
        topics: vec![
            // May report to any control service, and bind to nothing.
            TopicRights {
                exchange: REPORT,
                write: "^[a-z][a-z-]*([.]calls)?$",
                read: "^$",
            },
            // May answer control services, and bind to nothing.
            TopicRights {
                exchange: REPLY,
                write: "^yakumo[.]reply[.][0-9a-f]{32}$",
                read: "^$",
            },
        ],
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let mut permissions = vec![
        words(&["set_user_tags", &user]),
        words(&[
            "set_permissions",
            "-p",
            vhost,
            &user,
            &rights.configure,
            &rights.write,
            &rights.read,
        ]),
    ];
    for topic in &rights.topics {
        permissions.push(words(&[
            "set_topic_permissions",
            "-p",
            vhost,
            &user,
            topic.exchange,
            topic.write,
            topic.read,
        ]));
    }
    Ok(BrokerUser {
        add: words(&["add_user", &user]),
        change_password: words(&["change_password", &user]),
        permissions,
        rights,
        user,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_given_its_own_queues_and_two_exchanges() {
        let user = broker_user_for_host("node-1.example", "/").unwrap();
        let lines: Vec<String> = std::iter::once(&user.add)
            .chain(&user.permissions)
            .map(|words| words.join(" "))
            .collect();
        assert_eq!(
            lines.join("\n"),
            "add_user host.node-1.example\n\
             set_user_tags host.node-1.example\n\
             set_permissions -p / host.node-1.example \
             ^(host[.]node-1[.]example|host-reply[.]node-1[.]example[.][0-9a-f]{32})$ \
             ^(yakumo[.]report|yakumo[.]reply)$ \
             ^(host[.]node-1[.]example|host-reply[.]node-1[.]example[.][0-9a-f]{32})$\n\
             set_topic_permissions -p / host.node-1.example yakumo.report ^[a-z][a-z-]*([.]calls)?$ ^$\n\
             set_topic_permissions -p / host.node-1.example yakumo.reply ^yakumo[.]reply[.][0-9a-f]{32}$ ^$"
        );
    }

    #[test]
    fn a_name_cannot_smuggle_a_pattern() {
        for bad in ["a|b", ".*)", "a b", "", "a/b"] {
            assert!(broker_user_for_host(bad, "/").is_err(), "{bad}");
        }
    }
}
