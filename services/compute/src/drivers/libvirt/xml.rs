//! Domains as XML: a tree that writes itself, the one place that says what a
//! guest looks like, and the little that is read back from a running one.
//!
//! Rendering holds no policy: everything that is decided elsewhere (which
//! emulation, which cache mode, which devices) comes in as [`GuestXml`].

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
pub(super) use yakumo_types::domain_name;
use yakumo_types::{DOMAIN_PREFIX, ServerId, VolumeId};

use crate::decision::Plugged;

/// User-chosen aliases must begin so; it survives a restart of libvirtd.
const VOLUME_ALIAS: &str = "ua-volume-";

/// The server of a domain by its name, if it is one of ours.
pub(super) fn server_of(name: &str) -> Option<ServerId> {
    name.strip_prefix(DOMAIN_PREFIX)?.parse().ok()
}

/// The alias of a volume's disk.
pub(super) fn volume_alias(volume: VolumeId) -> String {
    format!("{VOLUME_ALIAS}{volume}")
}

/// How guests are virtualised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emulation {
    Kvm,
    Software,
}

/// A port of a guest.
#[derive(Debug, Clone)]
pub(super) struct PortXml {
    pub(super) mac_address: String,
    pub(super) tap: String,
    pub(super) mtu: u32,
}

/// A volume of a guest.
#[derive(Debug, Clone)]
pub(super) struct VolumeXml {
    pub(super) id: VolumeId,
    pub(super) socket: String,
    pub(super) export: String,
    pub(super) device: String,
    pub(super) serial: String,
    pub(super) reconnect_seconds: u32,
}

impl VolumeXml {
    pub(super) fn plugged(&self) -> Plugged {
        Plugged {
            volume: self.id,
            socket: self.socket.clone(),
        }
    }
}

/// The file that a disk is a layer above.
#[derive(Debug, Clone)]
pub(super) struct BaseXml {
    pub(super) path: PathBuf,
    pub(super) format: String,
}

/// Everything that a domain's XML says.
#[derive(Debug, Clone)]
pub(super) struct GuestXml {
    pub(super) server: ServerId,
    pub(super) title: String,
    pub(super) project_id: String,
    pub(super) flavor_name: String,
    pub(super) emulation: Emulation,
    pub(super) machine: String,
    /// A named model, or empty for the widest that the emulation offers.
    pub(super) cpu_model: String,
    pub(super) vcpus: u64,
    pub(super) memory_mib: u64,
    pub(super) disk: PathBuf,
    pub(super) disk_cache: &'static str,
    pub(super) base: BaseXml,
    pub(super) config_drive: Option<PathBuf>,
    pub(super) console_log: PathBuf,
    pub(super) ports: Vec<PortXml>,
    pub(super) volumes: Vec<VolumeXml>,
    pub(super) hotplug_slots: u32,
}

/// An element that writes itself.
struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    content: Content,
}

enum Content {
    Nothing,
    Text(String),
    Children(Vec<Element>),
}

fn tag(name: &'static str) -> Element {
    Element {
        name,
        attributes: Vec::new(),
        content: Content::Nothing,
    }
}

impl Element {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    fn text(mut self, text: impl Into<String>) -> Self {
        self.content = Content::Text(text.into());
        self
    }

    fn holding(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.content = Content::Children(children.into_iter().collect());
        self
    }

    fn write(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        let _ = write!(out, "{indent}<{}", self.name);
        for (name, value) in &self.attributes {
            let _ = write!(out, " {name}='{}'", escaped(value));
        }
        match &self.content {
            Content::Nothing => out.push_str("/>\n"),
            Content::Text(text) => {
                let _ = writeln!(out, ">{}</{}>", escaped(text), self.name);
            }
            Content::Children(children) => {
                out.push_str(">\n");
                for child in children {
                    child.write(out, depth.saturating_add(1));
                }
                let _ = writeln!(out, "{indent}</{}>", self.name);
            }
        }
    }
}

/// Escapes markup, and drops what XML 1.0 cannot say at all.
fn escaped(text: &str) -> String {
    let sayable: String = text
        .chars()
        .filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        .collect();
    quick_xml::escape::escape(sayable.as_str()).into_owned()
}

/// The whole domain.
pub(super) fn render(guest: &GuestXml) -> String {
    let id = guest.server.to_string();
    let metadata = tag("metadata").holding([tag("yakumo:server")
        .with("xmlns:yakumo", "https://yakumo.invalid/xml/server/1")
        .holding([
            tag("yakumo:project").text(&*guest.project_id),
            tag("yakumo:flavor").text(&*guest.flavor_name),
        ])]);
    // cloud-init looks for its metadata service when it reads this product.
    let smbios = |name: &str, value: &str| tag("entry").with("name", name).text(value);
    let sysinfo = tag("sysinfo")
        .with("type", "smbios")
        .holding([tag("system").holding([
            smbios("manufacturer", "Yakumo"),
            smbios("product", "OpenStack Nova"),
            smbios("version", env!("CARGO_PKG_VERSION")),
            smbios("serial", &id),
            smbios("uuid", &id),
            smbios("family", "Virtual Machine"),
        ])]);
    let os = tag("os").holding([
        tag("type")
            .with("arch", "x86_64")
            .with("machine", &*guest.machine)
            .text("hvm"),
        tag("smbios").with("mode", "sysinfo"),
    ]);
    let clock = tag("clock").with("offset", "utc").holding([
        tag("timer").with("name", "pit").with("tickpolicy", "delay"),
        tag("timer")
            .with("name", "rtc")
            .with("tickpolicy", "catchup"),
        tag("timer").with("name", "hpet").with("present", "no"),
    ]);
    let domain = tag("domain")
        .with(
            "type",
            match guest.emulation {
                Emulation::Kvm => "kvm",
                Emulation::Software => "qemu",
            },
        )
        .holding([
            tag("name").text(domain_name(guest.server)),
            tag("uuid").text(&*id),
            tag("title").text(&*guest.title),
            metadata,
            tag("memory")
                .with("unit", "MiB")
                .text(guest.memory_mib.to_string()),
            tag("vcpu").text(guest.vcpus.to_string()),
            sysinfo,
            os,
            tag("features").holding([tag("acpi"), tag("apic")]),
            cpu(guest),
            clock,
            tag("on_poweroff").text("destroy"),
            tag("on_reboot").text("restart"),
            tag("on_crash").text("destroy"),
            tag("devices").holding(devices(guest)),
        ]);
    let mut out = String::new();
    domain.write(&mut out, 0);
    out
}

fn cpu(guest: &GuestXml) -> Element {
    if !guest.cpu_model.is_empty() {
        return tag("cpu")
            .with("mode", "custom")
            .with("match", "exact")
            .holding([tag("model").text(&*guest.cpu_model)]);
    }
    match guest.emulation {
        Emulation::Kvm => tag("cpu").with("mode", "host-model"),
        // Five-level page tables cost software emulation much and give nothing.
        Emulation::Software => tag("cpu").with("mode", "maximum").holding([tag("feature")
            .with("policy", "disable")
            .with("name", "la57")]),
    }
}

fn devices(guest: &GuestXml) -> Vec<Element> {
    let mut devices = vec![disk(guest)];
    devices.extend(guest.config_drive.as_ref().map(|path| {
        tag("disk")
            .with("type", "file")
            .with("device", "cdrom")
            .holding([
                tag("driver").with("name", "qemu").with("type", "raw"),
                tag("source").with("file", path.display().to_string()),
                tag("target").with("dev", "sda").with("bus", "scsi"),
                tag("readonly"),
            ])
    }));
    devices.extend(guest.volumes.iter().map(volume));
    if guest.machine.contains("q35") {
        // One for each device on the PCI bus, and some to plug into later.
        let boot = guest
            .ports
            .len()
            .saturating_add(guest.volumes.len())
            .saturating_add(3);
        let spare = usize::try_from(guest.hotplug_slots).unwrap_or(0);
        devices.push(pci_controller(0, "pcie-root"));
        for index in 1..=boot.saturating_add(spare) {
            devices.push(pci_controller(index, "pcie-root-port"));
        }
    }
    if guest.config_drive.is_some() {
        // Kernels made for clouds know virtio, and often no SATA.
        devices.push(
            tag("controller")
                .with("type", "scsi")
                .with("index", "0")
                .with("model", "virtio-scsi"),
        );
    }
    devices.extend(guest.ports.iter().map(port));
    devices.push(
        tag("serial").with("type", "pty").holding([
            tag("log")
                .with("file", guest.console_log.display().to_string())
                .with("append", "on"),
            tag("target").with("type", "isa-serial").with("port", "0"),
        ]),
    );
    devices.push(
        tag("console")
            .with("type", "pty")
            .holding([tag("target").with("type", "serial").with("port", "0")]),
    );
    devices.push(
        tag("rng")
            .with("model", "virtio")
            .holding([tag("backend").with("model", "random").text("/dev/urandom")]),
    );
    devices.push(tag("memballoon").with("model", "none"));
    devices
}

fn pci_controller(index: usize, model: &str) -> Element {
    tag("controller")
        .with("type", "pci")
        .with("index", index.to_string())
        .with("model", model)
}

fn disk(guest: &GuestXml) -> Element {
    tag("disk")
        .with("type", "file")
        .with("device", "disk")
        .holding([
            tag("driver")
                .with("name", "qemu")
                .with("type", "qcow2")
                .with("cache", guest.disk_cache)
                .with("discard", "unmap"),
            tag("source").with("file", guest.disk.display().to_string()),
            // Said in full, so that nothing is guessed from what guests write.
            tag("backingStore").with("type", "file").holding([
                tag("format").with("type", &*guest.base.format),
                tag("source").with("file", guest.base.path.display().to_string()),
                tag("backingStore"),
            ]),
            tag("target").with("dev", "vda").with("bus", "virtio"),
            tag("boot").with("order", "1"),
        ])
}

fn port(port: &PortXml) -> Element {
    let mut parts = vec![
        tag("mac").with("address", &*port.mac_address),
        tag("target").with("dev", &*port.tap).with("managed", "no"),
        tag("model").with("type", "virtio"),
    ];
    if port.mtu > 0 {
        parts.push(tag("mtu").with("size", port.mtu.to_string()));
    }
    tag("interface").with("type", "ethernet").holding(parts)
}

fn volume(volume: &VolumeXml) -> Element {
    let mut parts = vec![
        tag("driver")
            .with("name", "qemu")
            .with("type", "raw")
            .with("cache", "none")
            .with("discard", "unmap"),
        tag("source")
            .with("protocol", "nbd")
            .with("name", &*volume.export)
            .holding([
                tag("host")
                    .with("transport", "unix")
                    .with("socket", &*volume.socket),
                tag("reconnect").with("delay", volume.reconnect_seconds.to_string()),
            ]),
        tag("target")
            .with("dev", &*volume.device)
            .with("bus", "virtio"),
    ];
    if !volume.serial.is_empty() {
        parts.push(tag("serial").text(&*volume.serial));
    }
    parts.push(tag("alias").with("name", volume_alias(volume.id)));
    tag("disk")
        .with("type", "network")
        .with("device", "disk")
        .holding(parts)
}

/// The disk of a volume alone, to plug it into a running domain.
pub(super) fn render_volume(xml: &VolumeXml) -> String {
    let mut out = String::new();
    volume(xml).write(&mut out, 0);
    out
}

/// The volumes that a domain's XML names.
pub(super) fn volumes_of(xml: &str) -> Result<BTreeSet<Plugged>, quick_xml::Error> {
    let mut reader = Reader::from_str(xml);
    let mut volumes = BTreeSet::new();
    let mut in_disk = false;
    // Of the disk that is being read.
    let (mut socket, mut id) = (String::new(), None);
    loop {
        match reader.read_event()? {
            Event::Start(start) if start.name().as_ref() == "disk" => {
                in_disk = true;
                (socket, id) = (String::new(), None);
            }
            Event::End(end) if end.name().as_ref() == "disk" => {
                in_disk = false;
                let socket = std::mem::take(&mut socket);
                volumes.extend(id.take().map(|volume| Plugged { volume, socket }));
            }
            Event::Start(start) | Event::Empty(start) if in_disk => match start.name().as_ref() {
                "alias" => id = id.or_else(|| volume_of(&start)),
                "host" if socket.is_empty() => socket = socket_of(&start)?,
                _ => {}
            },
            Event::Eof => return Ok(volumes),
            _ => {}
        }
    }
}

/// Where a network disk is read from; empty if that is no unix socket.
fn socket_of(host: &BytesStart<'_>) -> Result<String, quick_xml::Error> {
    let Some(attribute) = host.try_get_attribute("socket")? else {
        return Ok(String::new());
    };
    Ok(attribute
        .normalized_value(XmlVersion::Implicit1_0)?
        .into_owned())
}

fn volume_of(alias: &BytesStart<'_>) -> Option<VolumeId> {
    let attribute = alias.try_get_attribute("name").ok()??;
    attribute.value.strip_prefix(VOLUME_ALIAS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> GuestXml {
        GuestXml {
            server: "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b".parse().unwrap(),
            title: "web <1> & 'co'".into(),
            project_id: "demo".into(),
            flavor_name: "m1.tiny".into(),
            emulation: Emulation::Software,
            machine: "q35".into(),
            cpu_model: String::new(),
            vcpus: 2,
            memory_mib: 512,
            disk: "/d/guests/1/disk.qcow2".into(),
            disk_cache: "none",
            base: BaseXml {
                path: "/d/images/abc".into(),
                format: "qcow2".into(),
            },
            config_drive: Some("/d/guests/1/config.iso".into()),
            console_log: "/d/guests/1/console.log".into(),
            ports: vec![PortXml {
                mac_address: "fa:16:3e:00:00:01".into(),
                tap: "yk-0123456789a".into(),
                mtu: 1450,
            }],
            volumes: vec![VolumeXml {
                id: "00000000-0000-0000-0000-000000000001".parse().unwrap(),
                socket: "/d/volumes/1.sock".into(),
                export: "secret".into(),
                device: "vdb".into(),
                serial: "00000000-0000-0000-0".into(),
                reconnect_seconds: 60,
            }],
            hotplug_slots: 1,
        }
    }

    #[test]
    fn a_domain_is_rendered_whole() {
        let expected = r#"<domain type='qemu'>
  <name>yakumo-6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b</name>
  <uuid>6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b</uuid>
  <title>web &lt;1&gt; &amp; &apos;co&apos;</title>
  <metadata>
    <yakumo:server xmlns:yakumo='https://yakumo.invalid/xml/server/1'>
      <yakumo:project>demo</yakumo:project>
      <yakumo:flavor>m1.tiny</yakumo:flavor>
    </yakumo:server>
  </metadata>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <sysinfo type='smbios'>
    <system>
      <entry name='manufacturer'>Yakumo</entry>
      <entry name='product'>OpenStack Nova</entry>
      <entry name='version'>VERSION</entry>
      <entry name='serial'>6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b</entry>
      <entry name='uuid'>6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b</entry>
      <entry name='family'>Virtual Machine</entry>
    </system>
  </sysinfo>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <smbios mode='sysinfo'/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='maximum'>
    <feature policy='disable' name='la57'/>
  </cpu>
  <clock offset='utc'>
    <timer name='pit' tickpolicy='delay'/>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='hpet' present='no'/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/d/guests/1/disk.qcow2'/>
      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='/d/images/abc'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <boot order='1'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <source file='/d/guests/1/config.iso'/>
      <target dev='sda' bus='scsi'/>
      <readonly/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source protocol='nbd' name='secret'>
        <host transport='unix' socket='/d/volumes/1.sock'/>
        <reconnect delay='60'/>
      </source>
      <target dev='vdb' bus='virtio'/>
      <serial>00000000-0000-0000-0</serial>
      <alias name='ua-volume-00000000-0000-0000-0000-000000000001'/>
    </disk>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'/>
    <controller type='pci' index='2' model='pcie-root-port'/>
    <controller type='pci' index='3' model='pcie-root-port'/>
    <controller type='pci' index='4' model='pcie-root-port'/>
    <controller type='pci' index='5' model='pcie-root-port'/>
    <controller type='pci' index='6' model='pcie-root-port'/>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <interface type='ethernet'>
      <mac address='fa:16:3e:00:00:01'/>
      <target dev='yk-0123456789a' managed='no'/>
      <model type='virtio'/>
      <mtu size='1450'/>
    </interface>
    <serial type='pty'>
      <log file='/d/guests/1/console.log' append='on'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
    <memballoon model='none'/>
  </devices>
</domain>
"#;
        assert_eq!(
            render(&guest()),
            expected.replace("VERSION", env!("CARGO_PKG_VERSION"))
        );
    }

    #[test]
    fn what_is_plugged_in_is_read_back() {
        let mut guest = guest();
        guest.volumes[0].socket = "/d/it's <a> & b/1.sock".into();
        let volumes = volumes_of(&render(&guest)).unwrap();
        assert_eq!(volumes, BTreeSet::from([guest.volumes[0].plugged()]));
        let other = "<domain><interface><alias name='ua-volume-x'/></interface></domain>";
        assert!(volumes_of(other).unwrap().is_empty());
        assert_eq!(server_of(&domain_name(guest.server)), Some(guest.server));
        assert_eq!(server_of("somebody-elses"), None);
    }

    #[test]
    fn nothing_that_a_user_types_becomes_markup() {
        let mut guest = guest();
        guest.title = "</title><devices>\u{1}'\"".into();
        let xml = render(&guest);
        assert!(xml.contains("<title>&lt;/title&gt;&lt;devices&gt;&apos;&quot;</title>"));
    }
}
