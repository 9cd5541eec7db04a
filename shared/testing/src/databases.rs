//! PostgreSQL and MariaDB servers of one's own, and fresh databases in them.
//!
//! A server listens on a unix socket in its own folder, so that nothing of the
//! machine is touched, and is gone without a trace when it is dropped or when
//! the process that started it ends, in whatever way: a shell that watches
//! over it reads orders from a pipe, and the end of the pipe is the order to
//! clear up. Where a server is not installed, starting it fails and says so:
//! tests that need one must not pass without it.
//!
//! Usual tests take [`fresh`]: one server per test program, started at the
//! first use, and a database for every test. Both servers are set to sort and
//! compare as people do, which is what the migrations must undo.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sea_orm::ConnectionTrait;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use yakumo_db::{Backend, Db, DbConfig, DbError, MigratorTrait};

const READY_BOUND: Duration = Duration::from_secs(90);

/// All databases, for tests of the full matrix.
pub const ALL: [Backend; 3] = [Backend::Sqlite, Backend::Postgres, Backend::Mysql];

/// Keeps a server, whose command are the arguments: `start`, `term` (orderly),
/// `fast` (orderly, without waiting for clients), `kill` (at once); end of input
/// ends all.
const KEEPER: &str = r#"
folder=$1
shift
server=
end_server() {
    [ -n "$server" ] || return 0
    kill -CONT "$server" 2>/dev/null
    kill -"$1" "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    server=
}
while read -r order; do
    case "$order" in
        start) "$@" >>"$folder/server.log" 2>&1 </dev/null & server=$! ;;
        term) end_server TERM; : >"$folder/ended" ;;
        fast) end_server INT; : >"$folder/ended" ;;
        kill) end_server "$HARD_SIGNAL"; : >"$folder/ended" ;;
    esac
done
end_server "$HARD_SIGNAL"
cd /
rm -rf "$folder"
"#;

/// Whether a test's server forces its commits to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Not: nearly all tests, which never cut the power.
    Fast,
    /// As the server does it by itself; for measurements.
    Durable,
}

/// A private database server.
pub struct DatabaseServer {
    backend: Backend,
    folder: PathBuf,
    keeper: Mutex<Keeper>,
    databases: AtomicU32,
}

struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
}

impl DatabaseServer {
    /// Starts a server and waits until it answers (2 to 5 s).
    pub async fn start(backend: Backend) -> Result<Self> {
        Self::start_with(backend, Durability::Fast).await
    }

    /// Starts a server and waits until it answers.
    #[allow(clippy::disallowed_methods)]
    pub async fn start_with(backend: Backend, durability: Durability) -> Result<Self> {
        // Short, because the path of a socket must be.
        let folder = tempfile::Builder::new()
            .prefix("yakumo-db-")
            .tempdir_in("/tmp")?
            .keep();
        let prepared = match backend {
            Backend::Postgres => postgres(&folder, durability).await,
            Backend::Mysql => mariadb(&folder, durability).await,
            Backend::Sqlite => Err(anyhow::anyhow!("SQLite has no server")),
        };
        let command = match prepared {
            Ok(command) => command,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(error);
            }
        };
        let hard_signal = match backend {
            // Ends the children as well; they would live on after a KILL.
            Backend::Postgres => "QUIT",
            _ => "KILL",
        };
        let mut child = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .args(&command)
            .env("HARD_SIGNAL", hard_signal)
            // A signal for the test program's group is not for the keeper.
            .process_group(0)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the shell that keeps the database server")?;
        let orders = child.stdin.take();
        let server = Self {
            backend,
            folder,
            keeper: Mutex::new(Keeper { child, orders }),
            databases: AtomicU32::new(0),
        };
        server.resume().await?;
        Ok(server)
    }

    /// The unix socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(match self.backend {
            Backend::Postgres => ".s.PGSQL.5432",
            _ => "s",
        })
    }

    /// The URL of one of the server's databases.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display();
        match self.backend {
            Backend::Postgres => format!("postgres://postgres@localhost/{database}?host={folder}"),
            _ => format!("mysql://root@localhost/{database}?socket={folder}/s"),
        }
    }

    /// Makes an empty database and returns its URL.
    pub async fn create(&self) -> Result<String> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        let admin = self.admin().await?;
        let made = admin
            .read()
            .execute_unprepared(&format!("CREATE DATABASE {name}"))
            .await;
        admin.close().await;
        made?;
        Ok(self.url(&name))
    }

    async fn admin(&self) -> Result<Db, DbError> {
        let name = match self.backend {
            Backend::Postgres => "postgres",
            _ => "mysql",
        };
        let mut config = DbConfig::with_url(self.url(name));
        config.max_connections = 2;
        config.acquire_timeout = Duration::from_secs(2);
        Db::connect(&config).await
    }

    /// Starts the server again after [`DatabaseServer::stop`] or
    /// [`DatabaseServer::kill`].
    pub async fn resume(&self) -> Result<()> {
        self.order("start")?;
        let ready = async {
            loop {
                match self.admin().await {
                    Ok(admin) => {
                        admin.close().await;
                        return Ok(());
                    }
                    Err(DbError::Unavailable) => pause(Duration::from_millis(50)).await,
                    Err(error) => return Err(error),
                }
            }
        };
        match tokio::time::timeout(READY_BOUND, ready).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => bail!("{}: {error}:\n{}", self.backend.name(), self.log()),
            Err(_) => bail!(
                "{} did not start within {READY_BOUND:?}:\n{}",
                self.backend.name(),
                self.log()
            ),
        }
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// Stops the server in an orderly way; its data stays.
    pub async fn stop(&self) -> Result<()> {
        // PostgreSQL's TERM waits for every client to leave.
        match self.backend {
            Backend::Postgres => self.end("fast").await,
            _ => self.end("term").await,
        }
    }

    /// Ends the server at once; its data stays.
    pub async fn kill(&self) -> Result<()> {
        self.end("kill").await
    }

    async fn end(&self, order: &str) -> Result<()> {
        let ended = self.folder.join("ended");
        let _ = std::fs::remove_file(&ended);
        self.order(order)?;
        let gone = async {
            while !ended.exists() {
                pause(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(READY_BOUND, gone)
            .await
            .context("the database server did not end")
    }

    fn order(&self, order: &str) -> Result<()> {
        let Ok(mut keeper) = self.keeper.lock() else {
            bail!("the keeper is gone");
        };
        let orders = keeper.orders.as_mut().context("the keeper is gone")?;
        orders.write_all(format!("{order}\n").as_bytes())?;
        orders.flush()?;
        Ok(())
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        if let Ok(mut keeper) = self.keeper.lock() {
            keeper.orders = None;
            let _ = keeper.child.wait();
        }
    }
}

/// `setpriv …` where we are root, which PostgreSQL and MariaDB refuse to be.
fn as_user(user: &str) -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    [
        "setpriv",
        &format!("--reuid={user}"),
        &format!("--regid={user}"),
        "--clear-groups",
        "--",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn give_to(folder: &Path, user: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name(user)?
            .with_context(|| format!("there is no user {user}"))?;
        nix::unistd::chown(folder, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods)]
async fn run(folder: &Path, command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no program")?;
    let run = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(READY_BOUND, run)
        .await
        .with_context(|| format!("{program} did not end"))?
        .with_context(|| format!("{program} cannot be run"))?;
    ensure!(
        output.status.success(),
        "{}: {}{}",
        command.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The newest PostgreSQL that Debian has installed.
fn postgres_bin() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| {
                    let version = entry.file_name().to_str()?.parse().ok()?;
                    let bin = entry.path().join("bin");
                    bin.join("initdb").exists().then_some((version, bin))
                })
                .collect()
        })
        .unwrap_or_default();
    found.sort();
    match found.pop() {
        Some((_, bin)) => Ok(bin),
        None => bail!("PostgreSQL is not installed (apt-get install postgresql)"),
    }
}

async fn postgres(folder: &Path, durability: Durability) -> Result<Vec<String>> {
    let bin = postgres_bin()?;
    let program = |name: &str| bin.join(name).display().to_string();
    let data = folder.join("data").display().to_string();
    give_to(folder, "postgres")?;
    let mut init = as_user("postgres");
    init.push(program("initdb"));
    init.extend(words(&[
        "-D",
        &data,
        "-A",
        "trust",
        "-U",
        "postgres",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--locale-provider=icu",
        "--icu-locale=en-US",
        "--no-sync",
    ]));
    run(folder, &init).await?;
    let mut serve = as_user("postgres");
    serve.push(program("postgres"));
    let socket = folder.display().to_string();
    serve.extend(words(&["-D", &data, "-k", &socket]));
    for setting in [
        "listen_addresses=",
        "max_connections=300",
        "shared_buffers=64MB",
        // Looked for after a second by default, in which everybody waits.
        "deadlock_timeout=50ms",
    ] {
        serve.extend(words(&["-c", setting]));
    }
    if durability == Durability::Fast {
        for setting in [
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ] {
            serve.extend(words(&["-c", setting]));
        }
    }
    Ok(serve)
}

async fn mariadb(folder: &Path, durability: Durability) -> Result<Vec<String>> {
    let program = "/usr/sbin/mariadbd";
    ensure!(
        Path::new(program).exists(),
        "MariaDB is not installed (apt-get install mariadb-server)"
    );
    let data = format!("--datadir={}", folder.join("data").display());
    give_to(folder, "mysql")?;
    let mut init = as_user("mysql");
    init.extend(words(&[
        "mariadb-install-db",
        "--no-defaults",
        &data,
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    ]));
    run(folder, &init).await?;
    let mut serve = as_user("mysql");
    let socket = format!("--socket={}", folder.join("s").display());
    let pid = format!("--pid-file={}", folder.join("pid").display());
    // A server that starts removes what looks like an old server's temporary
    // tables, be it another one's.
    let temporary = format!("--tmpdir={}", folder.display());
    serve.extend(words(&[
        program,
        "--no-defaults",
        &data,
        &socket,
        &pid,
        &temporary,
        "--skip-networking",
        "--max-connections=300",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=32M",
    ]));
    if durability == Durability::Fast {
        serve.extend(words(&[
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--skip-log-bin",
        ]));
    }
    Ok(serve)
}

async fn shared(backend: Backend) -> Result<&'static DatabaseServer> {
    static POSTGRES: OnceCell<DatabaseServer> = OnceCell::const_new();
    static MARIADB: OnceCell<DatabaseServer> = OnceCell::const_new();
    let cell = match backend {
        Backend::Postgres => &POSTGRES,
        _ => &MARIADB,
    };
    cell.get_or_try_init(|| DatabaseServer::start(backend))
        .await
}

/// A database of one test. Keep it as long as the database is used.
pub struct TestDatabase {
    /// The connected database.
    pub db: Db,
    /// How to connect once more, as another process would.
    pub config: DbConfig,
    _folder: Option<TempDir>,
}

impl TestDatabase {
    /// Runs one statement in a transaction of its own, for rows as no service would
    /// write them.
    pub async fn run(&self, sql: &str) -> Result<(), DbError> {
        execute(&self.db, sql).await
    }
}

/// Runs one statement in a transaction of its own.
pub async fn execute(db: &Db, sql: &str) -> Result<(), DbError> {
    let sql = sql.to_owned();
    db.write(move |txn| {
        let sql = sql.clone();
        Box::pin(async move {
            txn.execute_unprepared(&sql).await?;
            Ok(())
        })
    })
    .await
}

/// An empty database of this kind. SQLite forces no commit to the disk here.
pub async fn fresh(backend: Backend) -> Result<TestDatabase> {
    let (mut config, folder) = match backend {
        Backend::Sqlite => {
            let folder = tempfile::tempdir()?;
            let config = DbConfig::sqlite(&folder.path().join("test.db"));
            (config, Some(folder))
        }
        _ => (
            DbConfig::with_url(shared(backend).await?.create().await?),
            None,
        ),
    };
    config.sqlite_durable = false;
    config.max_connections = 10;
    config.acquire_timeout = Duration::from_secs(20);
    Ok(TestDatabase {
        db: Db::connect(&config).await?,
        config,
        _folder: folder,
    })
}

/// A database of this kind with a schema.
pub async fn migrated<M: MigratorTrait>(backend: Backend) -> Result<TestDatabase> {
    let database = fresh(backend).await?;
    database.db.migrate::<M>().await?;
    Ok(database)
}

#[allow(clippy::disallowed_methods)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
