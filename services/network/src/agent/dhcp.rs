//! The DHCP servers of a host: one dnsmasq for each network, and none of them
//! waits for another one that does not start.
//!
//! A new port is a new file in a folder that dnsmasq watches. Everything else
//! (a port that went, an option that changed) needs a new dnsmasq, which takes
//! about 30 ms; leases that no longer belong to anybody are dropped meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::sync::Mutex;
use yakumo_host::child::{Child, ChildSpec, Leftover, end_leftover, keep_running};
use yakumo_host::dnsmasq::{Files, arguments, prune_leases};
use yakumo_host::read_if_there;
use yakumo_types::Env;

use super::render::dhcp::Server;

/// How long a new dnsmasq may take to serve.
const START_BOUND: Duration = Duration::from_secs(5);

/// Between two looks at whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How many of them are changed at a time.
const AT_A_TIME: usize = 16;

/// What became of the wanted servers.
#[derive(Debug, Default)]
pub struct Served {
    /// Networks without a server that serves, and why.
    pub failed: BTreeMap<String, String>,
    /// What is left of networks that are gone.
    pub leftovers: Vec<String>,
}

/// The DHCP servers of a host.
pub struct Dhcp {
    env: Env,
    netns: Option<String>,
    folder: PathBuf,
    running: Mutex<BTreeMap<String, Running>>,
}

struct Running {
    child: Child,
    server: Server,
}

impl Dhcp {
    /// Keeps everything below `folder`.
    pub fn new(env: Env, netns: Option<&str>, folder: PathBuf) -> Self {
        Self {
            env,
            netns: netns.map(str::to_owned),
            folder,
            running: Mutex::default(),
        }
    }

    /// Makes the servers be the wanted ones. `fresh` bridges were made just now:
    /// whoever served one of that name before has lost it.
    pub async fn converge(
        &self,
        wanted: &BTreeMap<String, Server>,
        fresh: &BTreeSet<String>,
    ) -> Served {
        let mut running = self.running.lock().await;
        let (mut kept, stale): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut *running)
            .into_iter()
            .partition(|(network, _)| wanted.contains_key(network));
        stream::iter(stale)
            .for_each_concurrent(AT_A_TIME, |(_, gone)| gone.child.stop())
            .await;
        let mut served = Served {
            leftovers: self.sweep(wanted).await,
            ..Served::default()
        };
        let work: Vec<_> = wanted
            .iter()
            .map(|(network, server)| {
                let lost = fresh.contains(&server.bridge);
                self.make(network, server, kept.remove(network), lost)
            })
            .collect();
        let mut work = stream::iter(work).buffer_unordered(AT_A_TIME);
        while let Some((network, there, result)) = work.next().await {
            if let Some(there) = there {
                running.insert(network.clone(), there);
            }
            if let Err(error) = result {
                served.failed.insert(network, format!("{error:#}"));
            }
        }
        served
    }

    /// Makes one server be as wanted; gives what runs now, and whether it serves.
    async fn make(
        &self,
        network: &str,
        server: &Server,
        before: Option<Running>,
        lost: bool,
    ) -> (String, Option<Running>, anyhow::Result<()>) {
        let network = network.to_owned();
        let files = Files::in_folder(&self.folder.join(&network));
        if let Some(mut there) = before {
            if !lost && only_new_hosts(&there.server, server) {
                if there.server != *server {
                    let known = there.server.hosts.clone();
                    if let Err(error) = write_files(files.clone(), server.clone(), known).await {
                        return (network, Some(there), Err(error));
                    }
                    there.server = server.clone();
                }
                let failed = there.child.failures().count;
                if !serves(&there.child, &files).await {
                    there.child.restart().await;
                }
                let result = self.wait_until_it_serves(&there, &files, failed).await;
                return (network, Some(there), result);
            }
            there.child.stop().await;
        }
        match self.start(&files, server).await {
            Ok(child) => {
                let there = Running {
                    child,
                    server: server.clone(),
                };
                let result = self.wait_until_it_serves(&there, &files, 0).await;
                (network, Some(there), result)
            }
            Err(error) => (network, None, Err(error)),
        }
    }

    /// `failed`: how often it had failed before.
    async fn wait_until_it_serves(
        &self,
        there: &Running,
        files: &Files,
        failed: u64,
    ) -> anyhow::Result<()> {
        let clock = &self.env.clock;
        let bound = clock.monotonic() + START_BOUND;
        while !serves(&there.child, files).await {
            if there.child.failures().count > failed || clock.monotonic() >= bound {
                return Err(not_serving(there, files).await);
            }
            clock.sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn start(&self, files: &Files, server: &Server) -> anyhow::Result<Child> {
        // One that an earlier agent left would write its leases over ours.
        end_leftover(&self.env, &files.pid()).await;
        write_files(files.clone(), server.clone(), BTreeMap::new()).await?;
        Ok(keep_running(
            self.env.clone(),
            ChildSpec {
                name: format!("dnsmasq {}", server.bridge),
                program: "dnsmasq".into(),
                args: arguments(&server.bridge, &server.ranges, files),
                netns: self.netns.clone(),
                pid_file: files.pid(),
                log_file: Some(files.log()),
                leftover: Leftover::Replace,
            },
        ))
    }

    /// Ends and removes what is left of networks that are gone; gives what
    /// cannot be removed.
    async fn sweep(&self, wanted: &BTreeMap<String, Server>) -> Vec<String> {
        let mut leftovers = Vec::new();
        let folder = self.folder.clone();
        let there = match tokio::task::spawn_blocking(move || list(&folder)).await {
            Ok(Ok(there)) => there,
            Ok(Err(error)) => {
                leftovers.push(format!("{}: {error}", self.folder.display()));
                Vec::new()
            }
            // The process ends.
            Err(_) => Vec::new(),
        };
        for network in there.iter().filter(|name| !wanted.contains_key(*name)) {
            let folder = self.folder.join(network);
            end_leftover(&self.env, &Files::in_folder(&folder).pid()).await;
            if let Err(error) = tokio::fs::remove_dir_all(&folder).await {
                leftovers.push(format!("{}: {error}", folder.display()));
            }
        }
        leftovers
    }

    /// Ends all servers, and leaves their files.
    pub async fn stop(&self) {
        let running = std::mem::take(&mut *self.running.lock().await);
        for (_, server) in running {
            server.child.stop().await;
        }
    }

    /// Stops watching the servers and leaves them running.
    pub async fn abandon(&self) {
        let running = std::mem::take(&mut *self.running.lock().await);
        for (_, server) in running {
            server.child.abandon().await;
        }
    }
}

/// Whether the very dnsmasq that runs now has said that it serves.
async fn serves(child: &Child, files: &Files) -> bool {
    let Some(pid) = child.pid() else {
        return false;
    };
    tokio::fs::read_to_string(files.ready())
        .await
        .is_ok_and(|text| text.trim() == pid.to_string())
}

/// Why a dnsmasq does not serve, as far as anybody has said so.
async fn not_serving(there: &Running, files: &Files) -> anyhow::Error {
    let log = files.log();
    let word = tokio::task::spawn_blocking(move || last_line(&log)).await;
    let word = word.ok().and_then(Result::ok).unwrap_or_default();
    let how = there.child.failures().last;
    let said: Vec<&str> = [how.as_str(), word.as_str()]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    anyhow::anyhow!(
        "dnsmasq of {} does not serve: {}",
        there.server.bridge,
        said.join(": ")
    )
}

/// The last line of a file that may be long.
fn last_line(path: &Path) -> io::Result<String> {
    const ENOUGH: u64 = 1024;
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(ENOUGH)))?;
    let mut bytes = Vec::new();
    file.take(ENOUGH).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().next_back().unwrap_or_default().to_owned())
}

fn list(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(entries) => {
            for entry in entries {
                names.extend(entry?.file_name().into_string().ok());
            }
        }
    }
    Ok(names)
}

/// Whether the new server differs from the old one by added hosts alone, if at
/// all.
fn only_new_hosts(old: &Server, new: &Server) -> bool {
    old.bridge == new.bridge
        && old.ranges == new.ranges
        && old.options == new.options
        && old
            .hosts
            .iter()
            .all(|(port, content)| new.hosts.get(port) == Some(content))
}

/// Writes hosts and options; `known` hosts are there already. With none known,
/// everything is made anew, and the leases are pruned.
async fn write_files(
    files: Files,
    server: Server,
    known: BTreeMap<String, String>,
) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let folder = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        folder(&files.hosts())?;
        folder(&files.options())?;
        if known.is_empty() {
            replace_all(&files.options(), &server.options)?;
            replace_all(&files.hosts(), &server.hosts)?;
            if let Some(leases) = read_if_there(&files.leases())? {
                let kept = prune_leases(&String::from_utf8_lossy(&leases), &server.leases);
                std::fs::write(files.leases(), kept)?;
            }
            return Ok(());
        }
        for (port, content) in server
            .hosts
            .iter()
            .filter(|(port, _)| !known.contains_key(*port))
        {
            put(&files.hosts(), port, content)?;
        }
        Ok::<_, io::Error>(())
    })
    .await??;
    Ok(())
}

fn replace_all(folder: &Path, wanted: &BTreeMap<String, String>) -> io::Result<()> {
    for name in list(folder)? {
        if !wanted.contains_key(&name) {
            std::fs::remove_file(folder.join(name))?;
        }
    }
    for (name, content) in wanted {
        put(folder, name, content)?;
    }
    Ok(())
}

/// A watcher must never see half a file; names with a leading dot are passed over.
fn put(folder: &Path, name: &str, content: &str) -> io::Result<()> {
    let hidden = folder.join(format!(".{name}"));
    std::fs::write(&hidden, content)?;
    std::fs::rename(hidden, folder.join(name))
}
