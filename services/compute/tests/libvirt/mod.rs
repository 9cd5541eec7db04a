//! Real guests on a libvirtd of their own: the driver suite, and everything
//! that a simulated hypervisor cannot prove.

mod host;
mod images;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use yakumo_compute::drivers::libvirt::LibvirtHypervisor;
use yakumo_compute::drivers::{Hypervisor, Stage};
use yakumo_compute::{Config, LibvirtConfig};
use yakumo_contracts::compute_host::{
    DesiredServer, NetworkPort, Power, Resources, ServerSpec, VolumeConnection,
};
use yakumo_host::{Cmd, CommandRunner, RealRunner};
use yakumo_service::{Process, system_env};
use yakumo_types::ServerId;

use crate::drivers::{a_guest_obeys_its_power_button, a_guests_life};
use crate::support::{HOST, World, desired, ids, new_server, volume};

use host::VirtHost;
use images::FakeImages;

/// How long a guest may take to boot in software emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(150);

fn config(host: &VirtHost) -> Config {
    Config {
        host: HOST.into(),
        data_dir: host.data(),
        netns: host.netns.clone(),
        reserved_memory_mib: 0,
        heartbeat_seconds: 1,
        // So seldom that only events can be why something is noticed.
        reconcile_seconds: 600,
        libvirt: LibvirtConfig {
            uri: host.uri(),
            log_dir: host.path().join("log/qemu"),
            detach_timeout_seconds: 8,
            tap_timeout_seconds: 2,
            ..LibvirtConfig::default()
        },
        ..Config::default()
    }
}

fn flavor() -> Resources {
    Resources {
        vcpus: 1,
        memory_mib: 192,
        disk_gib: 1,
    }
}

/// A guest that finds its metadata on a config drive.
fn spec(images: &FakeImages, user_data: &str) -> ServerSpec {
    let drive = HashMap::from([
        (
            "openstack/latest/meta_data.json".to_owned(),
            br#"{"uuid": "i-1", "hostname": "web-1", "public_keys": {}}"#.to_vec(),
        ),
        (
            "openstack/latest/user_data".to_owned(),
            user_data.as_bytes().to_vec(),
        ),
    ]);
    ServerSpec {
        flavor: Some(flavor()),
        image: Some(images.source()),
        config_drive: drive,
        ..crate::support::spec()
    }
}

async fn hypervisor(process: &Process, host: &VirtHost) -> Arc<LibvirtHypervisor> {
    Arc::new(
        LibvirtHypervisor::start(process, &config(host))
            .await
            .unwrap(),
    )
}

async fn console(hypervisor: &dyn Hypervisor, server: ServerId) -> String {
    let bytes = hypervisor.console_log(server, 1 << 20).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until the guest said `text` so many times.
async fn said(hypervisor: &dyn Hypervisor, server: ServerId, text: &str, times: usize) {
    let clock = system_env().clock;
    let start = clock.monotonic();
    loop {
        let console = console(hypervisor, server).await;
        if console.matches(text).count() >= times {
            return;
        }
        assert!(
            clock.monotonic() - start < BOOT,
            "the guest never said {text:?} {times} times: {console}"
        );
        clock.sleep(Duration::from_millis(200)).await;
    }
}

async fn run(script: String) {
    RealRunner::new()
        .run(Cmd::new("sh", ["-c".to_owned(), script]))
        .await
        .unwrap();
}

/// An agent with a real hypervisor, whose libvirt connection ends with it.
struct RealWorld {
    world: World,
    hypervisor: Arc<LibvirtHypervisor>,
    process: Process,
}

impl RealWorld {
    async fn new(host: &VirtHost) -> Self {
        let process = Process::new("libvirt", system_env());
        let hypervisor = hypervisor(&process, host).await;
        let world = World::with(config(host), hypervisor.clone()).await;
        Self {
            world,
            hypervisor,
            process,
        }
    }

    async fn boot(&self, spec: &ServerSpec) -> ServerId {
        let server = new_server();
        self.world.claim_of(server, 1, flavor()).await.unwrap();
        self.world
            .set(wish(server, 2, Power::Running, spec))
            .await
            .unwrap();
        self.reached(server, 2, "running").await;
        server
    }

    async fn reached(&self, server: ServerId, generation: u64, power_state: &str) {
        self.world
            .heard_within(server, power_state, BOOT, |state| {
                state.generation == generation
                    && state.converged
                    && state.power_state == power_state
            })
            .await;
    }

    async fn end(mut self) {
        self.world.stop().await;
        assert!(self.process.drain(Duration::from_secs(10)).await);
    }
}

fn wish(server: ServerId, generation: u64, power: Power, spec: &ServerSpec) -> DesiredServer {
    DesiredServer {
        spec: (power != Power::Absent).then(|| spec.clone()),
        ..desired(server, generation, power)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_suite_on_libvirt() {
    let host = VirtHost::start().await;
    let images = FakeImages::guest().await;
    let process = Process::new("libvirt", system_env());
    let hypervisor = hypervisor(&process, &host).await;
    a_guests_life(hypervisor.clone(), spec(&images, "")).await;
    a_guest_obeys_its_power_button(
        hypervisor.clone(),
        spec(&images, ""),
        async |hypervisor, server| said(hypervisor, server, "yakumo-guest: ssh", 1).await,
    )
    .await;
    assert_eq!(images.fetches(), 1, "the second disk came from the cache");
    assert_eq!(host.qemus().await, 0);
    assert_eq!(
        std::fs::read_dir(host.data().join("compute/guests"))
            .unwrap()
            .count(),
        0
    );
    assert!(process.drain(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_survives_everything_but_its_own_end() {
    let mut host = VirtHost::start().await;
    let images = FakeImages::guest().await;
    let mut real = RealWorld::new(&host).await;
    let keep = "#!/bin/sh\necho kept >/root/kept; sync; echo first-boot-done\n";
    let spec = spec(&images, keep);
    let server = real.boot(&spec).await;
    let hypervisor = real.hypervisor.clone();
    said(&*hypervisor, server, "metadata from the config drive", 1).await;
    said(&*hypervisor, server, "yakumo-guest: hostname web-1", 1).await;
    said(&*hypervisor, server, "first-boot-done", 1).await;
    let qemu = host.qemu(server).await;
    assert!(qemu.is_some());

    // The agent dies and comes back.
    real.world.restart().await;
    real.reached(server, 2, "running").await;
    assert_eq!(host.qemu(server).await, qemu);

    // libvirtd dies and comes back.
    host.kill_libvirtd().await;
    host.start_libvirtd().await;
    let pause = wish(server, 3, Power::Paused, &spec);
    real.world.set(pause).await.unwrap();
    real.reached(server, 3, "paused").await;
    real.world
        .set(wish(server, 4, Power::Running, &spec))
        .await
        .unwrap();
    real.reached(server, 4, "running").await;
    assert_eq!(host.qemu(server).await, qemu);

    // QEMU dies: seen within seconds, and not papered over.
    let clock = system_env().clock;
    let start = clock.monotonic();
    host.kill_qemu(server).await;
    real.reached(server, 4, "crashed").await;
    let noticed = clock.monotonic() - start;
    assert!(
        noticed < Duration::from_secs(5),
        "noticed after {noticed:?}"
    );
    real.world
        .set(wish(server, 5, Power::Running, &spec))
        .await
        .unwrap();
    real.reached(server, 5, "running").await;
    said(&*hypervisor, server, "yakumo-guest: ssh", 2).await;

    // QEMU dies while nobody looks.
    real.world.stop().await;
    host.kill_qemu(server).await;
    real.world.start().await;
    real.reached(server, 5, "crashed").await;
    real.world
        .set(wish(server, 6, Power::Running, &spec))
        .await
        .unwrap();
    real.reached(server, 6, "running").await;

    // The whole host loses power.
    real.world.stop().await;
    host.power_off().await;
    host.boot().await;
    assert_eq!(host.qemus().await, 0);
    real.world.start().await;
    said(&*hypervisor, server, "yakumo-guest: ssh", 3).await;
    real.reached(server, 6, "running").await;
    assert_eq!(host.qemus().await, 1);
    // The disk is the old one: user data did not run again.
    assert_eq!(
        console(&*hypervisor, server)
            .await
            .matches("first-boot-done")
            .count(),
        1
    );

    // The guest is told to reboot by its power button.
    let mut reboot = wish(server, 7, Power::Running, &spec);
    reboot.reboot_count = 1;
    real.world.set(reboot).await.unwrap();
    real.reached(server, 7, "running").await;
    said(&*hypervisor, server, "yakumo-guest: power button", 1).await;

    let absent = wish(server, 8, Power::Absent, &spec);
    real.world.set(absent).await.unwrap();
    real.reached(server, 8, "nostate").await;
    real.world.confirm(server, 8).await.unwrap();
    assert_eq!(host.qemus().await, 0);
    let left = host
        .inside("ls /etc/libvirt/qemu/*.xml /var/log/libvirt/qemu/*.log* 2>/dev/null || true")
        .await;
    assert_eq!(left, "");
    for folder in ["guests", "servers"] {
        let folder = host.data().join("compute").join(folder);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    }
    real.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_a_domain_is_noticed_within_seconds() {
    let host = VirtHost::start().await;
    let images = FakeImages::guest().await;
    let real = RealWorld::new(&host).await;
    let spec = spec(&images, "");
    let server = real.boot(&spec).await;
    let first = host.qemu(server).await;

    // Somebody pulls the plug: reported, and not papered over.
    host.virsh(&format!("destroy yakumo-{server}")).await;
    real.world
        .heard_within(server, "off", Duration::from_secs(5), |state| {
            state.generation == 2 && state.power_state == "shutdown"
        })
        .await;
    assert_eq!(host.qemus().await, 0);
    real.world
        .set(wish(server, 3, Power::Running, &spec))
        .await
        .unwrap();
    real.reached(server, 3, "running").await;

    // Somebody freezes it, which is not what was asked for.
    host.virsh(&format!("suspend yakumo-{server}")).await;
    host.until_virsh(&format!("domstate yakumo-{server}"), "running")
        .await;

    // Somebody makes libvirt forget it: nobody asked the guest to end, so it
    // is started again, by what the agent itself knows.
    let second = host.qemu(server).await;
    assert!(second.is_some() && second != first);
    host.virsh(&format!("undefine yakumo-{server}")).await;
    host.virsh(&format!("destroy yakumo-{server}")).await;
    host.until_virsh(&format!("domstate yakumo-{server}"), "running")
        .await;
    real.reached(server, 3, "running").await;
    assert_ne!(host.qemu(server).await, second);
    assert_eq!(host.qemus().await, 1);
    let known = host.virsh("list --all --persistent --name").await;
    assert_eq!(known.trim(), format!("yakumo-{server}"));
    real.end().await;
}

/// A volume's export, as the volume agent makes it.
async fn export(
    host: &VirtHost,
    number: u8,
    socket: &str,
) -> (VolumeConnection, std::path::PathBuf) {
    let file = host.path().join(format!("volume-{number}"));
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(&file)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let socket = host.path().join(format!("{socket}.sock"));
    let connection = VolumeConnection {
        nbd_socket: socket.display().to_string(),
        ..volume(number)
    };
    host.inside(&format!(
        "qemu-nbd --fork --persistent -e 4 -f raw -k {socket} --pid-file {socket}.pid -x {} {}",
        connection.nbd_export,
        file.display(),
        socket = socket.display(),
    ))
    .await;
    (connection, file)
}

async fn end_export(host: &VirtHost, connection: &VolumeConnection) {
    let pid = format!("$(cat {}.pid)", connection.nbd_socket);
    host.inside(&format!(
        "pid={pid}; kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.1; done"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_come_and_go_while_the_guest_writes_to_them() {
    let host = VirtHost::start().await;
    let images = FakeImages::guest().await;
    let real = RealWorld::new(&host).await;
    // Writes its name on every disk that appears, each time anew.
    let writer = "#!/bin/sh\nwhile :; do for disk in /dev/disk/by-id/virtio-*; do\n\
        [ -e \"$disk\" ] || continue\nname=${disk##*/}\n\
        time=$(cat /sys/block/$(basename $(readlink -f $disk))/diskseq)\n\
        [ -e /tmp/$name.$time ] && continue\n\
        printf 'I am %s.' $name | dd of=$disk conv=notrunc,fsync 2>/dev/null &&\n\
        touch /tmp/$name.$time && echo \"wrote $name\" >/dev/console\ndone; sleep 1; done\n";
    let (first, first_file) = export(&host, 0, "first").await;
    let (second, second_file) = export(&host, 1, "second").await;
    let plain = spec(&images, writer);
    let with = |volumes: &[&VolumeConnection]| ServerSpec {
        volumes: volumes.iter().map(|volume| (*volume).clone()).collect(),
        ..plain.clone()
    };
    let hypervisor = real.hypervisor.clone();
    // One from the start, one plugged in later.
    let server = real.boot(&with(&[&first])).await;
    said(
        &*hypervisor,
        server,
        &format!("wrote virtio-{}", first.serial),
        1,
    )
    .await;
    real.world
        .set(wish(server, 3, Power::Running, &with(&[&first, &second])))
        .await
        .unwrap();
    real.reached(server, 3, "running").await;
    said(
        &*hypervisor,
        server,
        &format!("wrote virtio-{}", second.serial),
        1,
    )
    .await;
    let state = real.world.api.state(server).unwrap();
    assert_eq!(
        state.attached_volume_ids,
        ids(&[first.clone(), second.clone()])
    );
    for (volume, file) in [(&first, &first_file), (&second, &second_file)] {
        let written = std::fs::read(file).unwrap();
        let expected = format!("I am virtio-{}.", volume.serial);
        assert_eq!(&written[..expected.len()], expected.as_bytes());
    }

    // Its export has ended, and the next attachment has another one.
    end_export(&host, &second).await;
    let (second, _) = export(&host, 1, "again").await;
    real.world
        .set(wish(server, 4, Power::Running, &with(&[&first, &second])))
        .await
        .unwrap();
    real.reached(server, 4, "running").await;
    said(
        &*hypervisor,
        server,
        &format!("wrote virtio-{}", second.serial),
        2,
    )
    .await;

    real.world
        .set(wish(server, 5, Power::Running, &with(&[&second])))
        .await
        .unwrap();
    real.reached(server, 5, "running").await;
    let state = real.world.api.state(server).unwrap();
    assert_eq!(
        state.attached_volume_ids,
        ids(std::slice::from_ref(&second))
    );

    // A frozen guest lets go of nothing: a fault within the bound.
    real.world
        .set(wish(server, 6, Power::Paused, &with(&[&second])))
        .await
        .unwrap();
    real.reached(server, 6, "paused").await;
    real.world
        .set(wish(server, 7, Power::Paused, &plain))
        .await
        .unwrap();
    let state = real
        .world
        .heard_within(server, "refusing", BOOT, |state| state.fault_is_final)
        .await;
    assert!(state.fault.contains("did not let go"), "{}", state.fault);
    assert_eq!(
        state.attached_volume_ids,
        ids(std::slice::from_ref(&second))
    );

    // Hard reboot with another set of volumes: the new domain has them.
    let mut reboot = wish(server, 8, Power::Running, &with(&[&first]));
    reboot.reboot_count = 1;
    reboot.reboot_hard = true;
    real.world.set(reboot).await.unwrap();
    real.reached(server, 8, "running").await;
    let state = real.world.api.state(server).unwrap();
    assert_eq!(state.attached_volume_ids, ids(&[first]));
    real.world
        .set(wish(server, 9, Power::Absent, &plain))
        .await
        .unwrap();
    real.reached(server, 9, "nostate").await;
    real.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_its_tap_and_for_its_bridge() {
    let host = VirtHost::start().await;
    let images = FakeImages::guest().await;
    let real = RealWorld::new(&host).await;
    let spec = ServerSpec {
        ports: vec![NetworkPort {
            port_id: "p-1".into(),
            mac_address: "fa:16:3e:12:34:56".into(),
            tap: "tap-test".into(),
            mtu: 1400,
            ..NetworkPort::default()
        }],
        ..spec(&images, "")
    };
    let server = new_server();
    real.world.claim_of(server, 1, flavor()).await.unwrap();
    real.world
        .set(wish(server, 2, Power::Running, &spec))
        .await
        .unwrap();
    real.world
        .heard_within(server, "waiting", BOOT, |state| {
            state.fault.contains("did not wire the port p-1") && !state.fault_is_final
        })
        .await;
    assert_eq!(host.qemus().await, 0);
    let netns = &host.netns;
    run(format!(
        "ip -n {netns} link add br-test type bridge && ip -n {netns} link set br-test up &&
         ip netns exec {netns} ip tuntap add dev tap-test mode tap &&
         ip -n {netns} link set tap-test mtu 1400 up master br-test"
    ))
    .await;
    real.reached(server, 2, "running").await;
    // Its network card speaks: the guest asks for an address.
    let clock = system_env().clock;
    let start = clock.monotonic();
    loop {
        let fdb = host.inside("bridge fdb show dev tap-test").await;
        if fdb.contains("fa:16:3e:12:34:56") {
            break;
        }
        assert!(clock.monotonic() - start < BOOT, "{fdb}");
        clock.sleep(Duration::from_millis(200)).await;
    }
    real.world
        .set(wish(server, 3, Power::Absent, &spec))
        .await
        .unwrap();
    real.reached(server, 3, "nostate").await;
    // The tap is the network agent's, and stays.
    run(format!("ip -n {netns} link show tap-test")).await;
    real.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_fetched_once_taken_up_where_it_was_cut_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::new("libvirt", system_env());
    // No libvirtd: building a disk needs none.
    let config = Config {
        data_dir: folder.path().to_owned(),
        libvirt: LibvirtConfig {
            uri: "qemu:///system?socket=/nowhere".into(),
            ..LibvirtConfig::default()
        },
        ..Config::default()
    };
    let hypervisor = LibvirtHypervisor::start(&process, &config).await.unwrap();
    let images = FakeImages::guest().await;
    let spec = ServerSpec {
        config_drive: HashMap::new(),
        ..spec(&images, "")
    };
    images.cut(&[1 << 20, 3 << 20]);
    let servers = [new_server(), new_server(), new_server()];
    let stage = Stage::default();
    let builds = servers.map(|server| hypervisor.build(server, &spec, &stage));
    for result in futures::future::join_all(builds).await {
        result.unwrap();
    }
    assert_eq!(images.fetches(), 3, "one download, cut off twice");
    assert_eq!(images.offsets(), [0, 1 << 20, 3 << 20]);
    for server in servers {
        let disk = folder
            .path()
            .join(format!("compute/guests/{server}/disk.qcow2"));
        let check = Cmd::new("qemu-img", ["check", "-q", &disk.display().to_string()]);
        RealRunner::new().run(check).await.unwrap();
    }

    // A wrong checksum, a ticket that does not hold, a flavor that is too small.
    let build = async |change: &dyn Fn(&mut ServerSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        let built = hypervisor.build(new_server(), &spec, &stage).await;
        built.unwrap_err().fault
    };
    let wrong = build(&|spec| spec.image.as_mut().unwrap().sha512 = "ab".repeat(64)).await;
    assert_eq!(wrong, "The image could not be fetched.");
    let stolen = "cd".repeat(64);
    let refused = build(&|spec| {
        let image = spec.image.as_mut().unwrap();
        image.sha512 = stolen.clone();
        image.ticket = "stolen".into();
    })
    .await;
    assert_eq!(refused, "The host is no longer allowed to fetch the image.");
    let left: Vec<_> = std::fs::read_dir(folder.path().join("compute/images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(&stolen))
        .collect();
    assert_eq!(left, [images.source().sha512]);
    assert!(process.drain(Duration::from_secs(10)).await);
}
