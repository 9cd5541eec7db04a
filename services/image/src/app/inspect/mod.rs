//! What is inside an image, read from its bytes.
//!
//! A host gives image files to QEMU, and several disk formats can name *other*
//! files: qcow2 has backing and data files, VMDK has descriptors, VHD and VHDX
//! have parents. Whoever uploads such an image would read or write files of
//! the host. So a format is recognised from the bytes, never believed; an
//! image that claims to be raw and is something else is refused as well,
//! because whatever opens it later may guess better than we did.
//!
//! Only headers are read, at fixed places and with bounded sizes, so the cost
//! does not depend on what the header says.

mod qcow2;
mod vhd;
mod vmdk;

use std::io;

/// Bytes from the start that [`sniff`] wants; less only if the image is
/// smaller than that.
pub const SNIFF_LENGTH: usize = 64 * 1024;

/// A format that was recognised from bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Nothing else: the bytes are the disk.
    Raw,
    /// QEMU copy on write, version 2 or 3.
    Qcow2,
    /// VMware: one file with its header, descriptor and data.
    Vmdk,
    /// A VMware descriptor in text, which only names other files.
    VmdkDescriptor,
    /// An old VMware format (`COWD`) which may have parents.
    VmdkOld,
    /// Virtual PC.
    Vhd,
    /// Hyper-V.
    Vhdx,
    /// VirtualBox.
    Vdi,
    /// ISO 9660.
    Iso,
    /// QEMU enhanced disk, which may have a backing file.
    Qed,
    /// The first qcow, which may have a backing file.
    Qcow,
    /// Parallels.
    Parallels,
    /// An encrypted volume.
    Luks,
    /// A tar archive, as in an OVA.
    Tar,
}

impl Format {
    /// The format in words that a client knows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::VmdkDescriptor => "vmdk descriptor",
            Self::VmdkOld => "vmdk (COWD)",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Iso => "iso",
            Self::Qed => "qed",
            Self::Qcow => "qcow",
            Self::Parallels => "parallels",
            Self::Luks => "luks",
            Self::Tar => "tar",
        }
    }
}

/// Why an image is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The bytes are another format than was declared.
    #[error("The data is not what was declared: disk_format is {declared}, the bytes are {found}.")]
    Mismatch {
        /// What the image's `disk_format` says.
        declared: String,
        /// What was found.
        found: &'static str,
    },
    /// The bytes are that format, and still not taken.
    #[error("The {format} data is refused: {reason}.")]
    Unsafe {
        /// The format.
        format: &'static str,
        /// Why, as the end of a sentence.
        reason: String,
    },
    /// The bytes could not be read back.
    #[error("the stored data could not be read")]
    Io(#[source] io::Error),
}

impl Refusal {
    fn new(format: Format, reason: impl Into<String>) -> Self {
        Self::Unsafe {
            format: format.name(),
            reason: reason.into(),
        }
    }
}

/// Bytes that can be read anywhere.
pub trait ReadAt {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset`; returns how many bytes there were.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Up to `length` bytes from `offset`; fewer at the end, none behind it.
    fn bytes(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        // An offset from a header can be any number, and a file refuses those
        // that no file could have.
        if offset >= self.size() {
            return Ok(Vec::new());
        }
        let mut buffer = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            match self.read_at(rest, offset.saturating_add(filled as u64))? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// Recognises the format by its signature at the start. `prefix` holds the
/// first [`SNIFF_LENGTH`] bytes, or all of them.
pub fn sniff(prefix: &[u8]) -> Format {
    let at = |offset: usize, signature: &[u8]| {
        prefix.get(offset..offset + signature.len()) == Some(signature)
    };
    if at(0, b"QFI\xfb") {
        return match be32(prefix, 4) {
            Some(2 | 3) => Format::Qcow2,
            _ => Format::Qcow,
        };
    }
    if at(0, b"KDMV") || at(0, b"VMDK") {
        return Format::Vmdk;
    }
    if at(0, b"COWD") {
        return Format::VmdkOld;
    }
    if vmdk::is_descriptor(prefix) {
        return Format::VmdkDescriptor;
    }
    if at(0, b"vhdxfile") {
        return Format::Vhdx;
    }
    if at(0, b"conectix") {
        return Format::Vhd;
    }
    if at(0x40, &[0x7f, 0x10, 0xda, 0xbe]) {
        return Format::Vdi;
    }
    if at(0, b"QED\0") {
        return Format::Qed;
    }
    if at(0, b"WithoutFreeSpace") || at(0, b"WithouFreSpacExt") {
        return Format::Parallels;
    }
    if at(0, b"LUKS\xba\xbe") {
        return Format::Luks;
    }
    if at(257, b"ustar") {
        return Format::Tar;
    }
    // A volume descriptor of ISO 9660 with an MBR before it is a hybrid image:
    // it is both, and goes by what was declared.
    if at(0x8001, b"CD001") || at(0x8801, b"CD001") {
        return Format::Iso;
    }
    Format::Raw
}

/// Refuses as soon as the first bytes contradict the declaration, so that
/// nobody uploads gigabytes to learn it at the end.
pub fn check_start(disk_format: &str, prefix: &[u8]) -> Result<(), Refusal> {
    let found = sniff(prefix);
    // A fixed VHD has its signature only at its end.
    if found == Format::Raw && disk_format == "vhd" {
        return Ok(());
    }
    check_declared(disk_format, found)
}

fn check_declared(disk_format: &str, found: Format) -> Result<(), Refusal> {
    let fits = match disk_format {
        // A kernel, a ramdisk or a file system is raw; a hybrid ISO boots as a disk too.
        "raw" | "ami" | "ari" | "aki" => matches!(found, Format::Raw | Format::Iso),
        "qcow2" => found == Format::Qcow2,
        "vmdk" => matches!(
            found,
            Format::Vmdk | Format::VmdkDescriptor | Format::VmdkOld
        ),
        "vhd" => found == Format::Vhd,
        "vhdx" => found == Format::Vhdx,
        "vdi" => found == Format::Vdi,
        "iso" => found == Format::Iso,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Refusal::Mismatch {
        declared: disk_format.to_owned(),
        found: found.name(),
    })
}

/// Checks stored bytes against the declared format and refuses what points
/// elsewhere. Returns the size of the disk inside, in bytes.
pub fn inspect(disk_format: &str, data: &(impl ReadAt + ?Sized)) -> Result<u64, Refusal> {
    let prefix = data.bytes(0, SNIFF_LENGTH).map_err(Refusal::Io)?;
    let mut found = sniff(&prefix);
    if found == Format::Raw && disk_format == "vhd" && vhd::has_footer(data)? {
        found = Format::Vhd;
    }
    check_declared(disk_format, found)?;
    match found {
        Format::Raw | Format::Iso => Ok(data.size()),
        Format::Qcow2 => qcow2::virtual_size(data, &prefix),
        Format::Vmdk => vmdk::virtual_size(data, &prefix),
        Format::VmdkDescriptor => Err(Refusal::new(
            found,
            "a descriptor only names other files; upload a monolithic image",
        )),
        Format::VmdkOld => Err(Refusal::new(found, "it may have parents")),
        Format::Vhd => vhd::vhd_virtual_size(data, &prefix),
        Format::Vhdx => vhd::vhdx_virtual_size(data),
        Format::Vdi => vdi_virtual_size(&prefix),
        Format::Qed | Format::Qcow | Format::Parallels | Format::Luks | Format::Tar => {
            Err(Refusal::new(found, "this format is not taken"))
        }
    }
}

/// VirtualBox: header at 0x40, image type at 0x4c, disk size at 0x170.
fn vdi_virtual_size(prefix: &[u8]) -> Result<u64, Refusal> {
    let cut = || Refusal::new(Format::Vdi, "its header is cut off");
    // 1 is dynamic, 2 is fixed; undo and difference images have parents.
    match le32(prefix, 0x4c).ok_or_else(cut)? {
        1 | 2 => le64(prefix, 0x170).ok_or_else(cut),
        _ => Err(Refusal::new(Format::Vdi, "it depends on another image")),
    }
}

fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_raw_must_be_raw() {
        assert_eq!(inspect("raw", &b"anything"[..]).unwrap(), 8);
        assert_eq!(inspect("raw", &b""[..]).unwrap(), 0);
        for disguised in [
            &b"QFI\xfb\0\0\0\x03"[..],
            b"QFI\xfb\0\0\0\x01",
            b"KDMV",
            b"COWD",
            b"vhdxfile",
            b"conectix",
            b"QED\0",
            b"LUKS\xba\xbe",
            b"# Disk DescriptorFile\nversion=1\n",
            b"\n# anything\n\nversion=1\n",
        ] {
            assert!(
                matches!(inspect("raw", disguised), Err(Refusal::Mismatch { .. })),
                "{disguised:?}"
            );
            assert!(check_start("raw", disguised).is_err());
        }
    }

    #[test]
    fn what_says_otherwise_must_be_that() {
        for format in ["qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ploop", ""] {
            assert!(
                matches!(
                    inspect(format, &[0; 4096][..]),
                    Err(Refusal::Mismatch { .. })
                ),
                "{format}"
            );
        }
    }

    #[test]
    fn an_iso_may_be_used_as_a_disk() {
        let mut iso = vec![0; 0x9000];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        assert_eq!(inspect("iso", &iso[..]).unwrap(), 0x9000);
        assert_eq!(inspect("raw", &iso[..]).unwrap(), 0x9000);
    }

    #[test]
    fn a_vdi_difference_image_is_refused() {
        let mut vdi = vec![0; 512];
        vdi[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        vdi[0x4c] = 1;
        vdi[0x170..0x178].copy_from_slice(&(1u64 << 30).to_le_bytes());
        assert_eq!(inspect("vdi", &vdi[..]).unwrap(), 1 << 30);
        vdi[0x4c] = 4;
        assert!(matches!(
            inspect("vdi", &vdi[..]),
            Err(Refusal::Unsafe { .. })
        ));
        assert!(inspect("vdi", &vdi[..0x48]).is_err());
    }
}
