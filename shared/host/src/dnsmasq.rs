//! dnsmasq as a DHCP server for one bridge: its arguments and its files.
//!
//! It reads one small file for each port from a folder that it watches, so that
//! a new port needs no signal. It is never sent SIGHUP: Debian's version
//! crashes on that when a tagged host has a lease. It does not notice that a
//! file went away, so a removal is followed by a restart (about 30 ms; leases
//! are kept in their file, and the removed one is dropped from it first).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Where one dnsmasq keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Everything lives below this folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One file for each port: who gets which address.
    pub fn hosts(&self) -> PathBuf {
        self.folder.join("hosts")
    }

    /// One file for each tag: which options it gets.
    pub fn options(&self) -> PathBuf {
        self.folder.join("options")
    }

    /// The leases, written by dnsmasq.
    pub fn leases(&self) -> PathBuf {
        self.folder.join("leases")
    }

    /// Its process, written by us.
    pub fn pid(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// Its process id, written by dnsmasq itself once it serves.
    pub fn ready(&self) -> PathBuf {
        self.folder.join("ready")
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// A range of addresses to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Tag of the subnet.
    pub tag: String,
    /// The subnet's own address.
    pub network: Ipv4Addr,
    /// Its mask.
    pub netmask: Ipv4Addr,
    /// How long a lease lasts, in seconds.
    pub lease_seconds: u32,
}

/// The arguments of a dnsmasq that serves only known ports of one bridge, and
/// no DNS.
pub fn arguments(bridge: &str, ranges: &[Range], files: &Files) -> Vec<String> {
    let mut args: Vec<String> = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--port=0",
        "--bind-interfaces",
        "--except-interface=lo",
        "--dhcp-authoritative",
        "--no-ping",
        "--log-facility=-",
        "--quiet-dhcp",
        "--user=root",
        "--group=root",
    ]
    .map(str::to_owned)
    .to_vec();
    args.push(format!("--interface={bridge}"));
    for range in ranges {
        args.push(format!(
            "--dhcp-range=set:{},{},static,{},{}s",
            range.tag, range.network, range.netmask, range.lease_seconds
        ));
    }
    args.push(format!("--dhcp-lease-max={}", ranges.len().max(1) * 65_536));
    args.push(format!("--dhcp-hostsdir={}", files.hosts().display()));
    args.push(format!("--dhcp-optsdir={}", files.options().display()));
    args.push(format!("--dhcp-leasefile={}", files.leases().display()));
    args.push(format!("--pid-file={}", files.ready().display()));
    args
}

/// What one subnet's clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Tag of the subnet.
    pub tag: String,
    /// The default gateway, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The link's MTU.
    pub mtu: u32,
    /// Routes: destination with prefix length, next hop.
    pub routes: Vec<(String, Ipv4Addr)>,
    /// Domain that clients search.
    pub domain: Option<String>,
}

/// The options file of one subnet.
///
/// Clients that take classless routes (121) ignore the router option, so the
/// default route is in both.
pub fn render_options(options: &Options) -> String {
    let tag = &options.tag;
    let mut text = String::new();
    match options.router {
        Some(router) => {
            let _ = writeln!(text, "tag:{tag},option:router,{router}");
        }
        // Without a value the option is not sent; left out, dnsmasq would send itself.
        None => {
            let _ = writeln!(text, "tag:{tag},option:router");
        }
    }
    if options.dns.is_empty() {
        let _ = writeln!(text, "tag:{tag},option:dns-server");
    } else {
        let servers: Vec<String> = options.dns.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "tag:{tag},option:dns-server,{}", servers.join(","));
    }
    let _ = writeln!(text, "tag:{tag},option:mtu,{}", options.mtu);
    let mut routes: Vec<String> = options
        .routes
        .iter()
        .map(|(destination, hop)| format!("{destination},{hop}"))
        .collect();
    if !routes.is_empty() {
        routes.extend(options.router.map(|router| format!("0.0.0.0/0,{router}")));
        let _ = writeln!(
            text,
            "tag:{tag},option:classless-static-route,{}",
            routes.join(",")
        );
    }
    if let Some(domain) = &options.domain {
        let _ = writeln!(text, "tag:{tag},option:domain-name,{domain}");
    }
    text
}

/// One port that gets an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// Its MAC.
    pub mac: String,
    /// The address it gets.
    pub address: Ipv4Addr,
    /// The name it is told.
    pub hostname: String,
    /// Tag of its subnet.
    pub tag: String,
}

/// The hosts file of one port.
pub fn render_host(host: &HostEntry) -> String {
    format!(
        "{},set:{},{},{}\n",
        host.mac, host.tag, host.address, host.hostname
    )
}

/// The leases without those whose MAC and address no longer belong together.
/// `known` maps MAC to address. Lines that are no leases (the server's own id)
/// stay.
pub fn prune_leases(leases: &str, known: &BTreeMap<String, Ipv4Addr>) -> String {
    let mut text = String::new();
    for line in leases.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let keep = match words.as_slice() {
            [_expiry, mac, address, ..] if address.parse::<Ipv4Addr>().is_ok() => known
                .get(&mac.to_ascii_lowercase())
                .is_some_and(|own| own.to_string() == *address),
            _ => true,
        };
        if keep {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_serve_one_bridge_and_no_dns() {
        let files = Files::in_folder(Path::new("/d"));
        let range = Range {
            tag: "subnet-1".into(),
            network: Ipv4Addr::new(10, 0, 0, 0),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            lease_seconds: 86_400,
        };
        assert_eq!(
            arguments("yk-1", &[range], &files).join(" "),
            "--keep-in-foreground --conf-file=/dev/null --no-hosts --no-resolv --port=0 --bind-interfaces \
             --except-interface=lo --dhcp-authoritative --no-ping --log-facility=- --quiet-dhcp --user=root \
             --group=root --interface=yk-1 --dhcp-range=set:subnet-1,10.0.0.0,static,255.255.255.0,86400s \
             --dhcp-lease-max=65536 --dhcp-hostsdir=/d/hosts --dhcp-optsdir=/d/options \
             --dhcp-leasefile=/d/leases --pid-file=/d/ready"
        );
    }

    #[test]
    fn the_default_route_is_in_both_options() {
        let options = Options {
            tag: "s".into(),
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            dns: vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)],
            mtu: 1450,
            routes: vec![("169.254.169.254/32".into(), Ipv4Addr::new(10, 0, 0, 1))],
            domain: Some("yakumo.local".into()),
        };
        assert_eq!(
            render_options(&options),
            "tag:s,option:router,10.0.0.1\ntag:s,option:dns-server,9.9.9.9,1.1.1.1\ntag:s,option:mtu,1450\n\
             tag:s,option:classless-static-route,169.254.169.254/32,10.0.0.1,0.0.0.0/0,10.0.0.1\n\
             tag:s,option:domain-name,yakumo.local\n"
        );
        let bare = Options {
            router: None,
            dns: Vec::new(),
            routes: Vec::new(),
            domain: None,
            ..options
        };
        assert_eq!(
            render_options(&bare),
            "tag:s,option:router\ntag:s,option:dns-server\ntag:s,option:mtu,1450\n"
        );
    }

    #[test]
    fn a_port_gets_its_address_and_its_name() {
        let host = HostEntry {
            mac: "fa:16:3e:00:00:01".into(),
            address: Ipv4Addr::new(10, 0, 0, 5),
            hostname: "host-10-0-0-5".into(),
            tag: "s".into(),
        };
        assert_eq!(
            render_host(&host),
            "fa:16:3e:00:00:01,set:s,10.0.0.5,host-10-0-0-5\n"
        );
    }

    #[test]
    fn only_leases_of_known_ports_are_kept() {
        let known = BTreeMap::from([("fa:16:3e:00:00:01".to_owned(), Ipv4Addr::new(10, 0, 0, 5))]);
        assert_eq!(
            prune_leases(
                "1790000000 fa:16:3e:00:00:01 10.0.0.5 a 01:fa\n1790000000 fa:16:3e:00:00:02 10.0.0.6 b *\n\
                 1790000000 fa:16:3e:00:00:01 10.0.0.7 c *\nduid 00:01\n",
                &known
            ),
            "1790000000 fa:16:3e:00:00:01 10.0.0.5 a 01:fa\nduid 00:01\n"
        );
    }
}
