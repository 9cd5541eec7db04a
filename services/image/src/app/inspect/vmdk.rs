//! VMDK: the header of VMware's virtual disk format 5.0.
//!
//! Only images that hold everything themselves are taken: `monolithicSparse`
//! and `streamOptimized`, with one extent and no parent. QEMU follows the
//! embedded descriptor wherever it leads as soon as the header says that the
//! capacity is zero, so that is refused too.

use super::{Format, ReadAt, Refusal, le32, le64};

const SECTOR: u64 = 512;
const MAX_DESCRIPTOR_SECTORS: u64 = 128;

/// Whether the text is one that QEMU would take for a descriptor: comments
/// and empty lines, then a version.
pub fn is_descriptor(prefix: &[u8]) -> bool {
    if prefix.starts_with(b"# Disk DescriptorFile") {
        return true;
    }
    let head = prefix.get(..prefix.len().min(4096)).unwrap_or_default();
    for line in head.split(|byte| *byte == b'\n').take(64) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        return line.starts_with(b"version=");
    }
    false
}

/// The size of the disk inside; `prefix` is the image's start.
pub fn virtual_size(data: &(impl ReadAt + ?Sized), prefix: &[u8]) -> Result<u64, Refusal> {
    let refuse = |reason: &str| Refusal::new(Format::Vmdk, reason);
    let cut = || refuse("its header is cut off");
    if prefix.starts_with(b"VMDK") {
        return Err(refuse("it is of a kind that no host uses"));
    }
    let version = le32(prefix, 4).ok_or_else(cut)?;
    let capacity = le64(prefix, 12).ok_or_else(cut)?;
    let descriptor_sector = le64(prefix, 28).ok_or_else(cut)?;
    let descriptor_sectors = le64(prefix, 36).ok_or_else(cut)?;
    le64(prefix, 72).ok_or_else(cut)?;
    if !(1..=3).contains(&version) {
        return Err(refuse("its version is not known"));
    }
    if capacity == 0 {
        return Err(refuse("its header leaves everything to a descriptor"));
    }
    if descriptor_sector == 0 || descriptor_sectors == 0 {
        return Err(refuse("it has no descriptor"));
    }
    if descriptor_sectors > MAX_DESCRIPTOR_SECTORS {
        return Err(refuse("its descriptor is too large"));
    }
    let offset = descriptor_sector
        .checked_mul(SECTOR)
        .ok_or_else(|| refuse("its descriptor lies outside of the data"))?;
    let length = usize::try_from(descriptor_sectors * SECTOR).unwrap_or(0);
    let descriptor = data.bytes(offset, length).map_err(Refusal::Io)?;
    if descriptor.len() < length {
        return Err(refuse("its descriptor lies outside of the data"));
    }
    check_descriptor(&descriptor)?;
    capacity
        .checked_mul(SECTOR)
        .ok_or_else(|| refuse("its disk is too large"))
}

fn check_descriptor(bytes: &[u8]) -> Result<(), Refusal> {
    let refuse = |reason: &str| Refusal::new(Format::Vmdk, reason);
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let mut kind = None;
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_extent = ["RW ", "RDONLY ", "NOACCESS "]
            .iter()
            .any(|access| line.starts_with(access));
        if is_extent {
            extents += 1;
            // RW 4192256 SPARSE "disk.vmdk"
            let mut words = line.splitn(4, ' ');
            let what = words.nth(2).unwrap_or_default();
            let name = words.next().unwrap_or_default();
            if what != "SPARSE" || name.contains('/') {
                return Err(refuse("an extent of it is another file"));
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "createtype" => kind = Some(value.to_ascii_lowercase()),
            "parentcid" if !value.eq_ignore_ascii_case("ffffffff") => {
                return Err(refuse("it has a parent"));
            }
            "parentfilenamehint" => return Err(refuse("it has a parent")),
            _ => {}
        }
    }
    match kind.as_deref() {
        Some("monolithicsparse" | "streamoptimized") => {}
        Some(_) => {
            return Err(refuse(
                "only monolithicSparse and streamOptimized images are taken",
            ));
        }
        None => return Err(refuse("its descriptor has no createType")),
    }
    if extents != 1 {
        return Err(refuse("it must have exactly one extent"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::inspect;

    fn image(descriptor: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 1024];
        bytes[0..4].copy_from_slice(b"KDMV");
        bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
        bytes[12..20].copy_from_slice(&2048u64.to_le_bytes());
        bytes[28..36].copy_from_slice(&1u64.to_le_bytes());
        bytes[36..44].copy_from_slice(&20u64.to_le_bytes());
        bytes[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
        bytes
    }

    const HONEST: &str = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n# Extent description\nRW 2048 SPARSE \"disk.vmdk\"\n";

    #[test]
    fn an_image_that_holds_everything_is_taken() {
        assert_eq!(inspect("vmdk", &image(HONEST)[..]).unwrap(), 1 << 20);
    }

    #[test]
    fn whatever_names_another_file_is_refused() {
        for (from, to) in [
            ("monolithicSparse", "monolithicFlat"),
            ("monolithicSparse", "vmfsSparse"),
            ("createType", "created"),
            ("SPARSE \"disk.vmdk\"", "FLAT \"/etc/shadow\" 0"),
            ("SPARSE \"disk.vmdk\"", "SPARSE \"/etc/shadow\""),
            (
                "SPARSE \"disk.vmdk\"\n",
                "SPARSE \"a\"\nRW 1 SPARSE \"b\"\n",
            ),
            ("parentCID=ffffffff", "parentCID=12345678"),
            ("CID=12345678\n", "parentFileNameHint=\"/etc/shadow\"\n"),
        ] {
            let bytes = image(&HONEST.replace(from, to));
            assert!(inspect("vmdk", &bytes[..]).is_err(), "{to}");
        }
        assert!(inspect("vmdk", HONEST.as_bytes()).is_err());
        let mut empty = image(HONEST);
        empty[12..20].fill(0);
        assert!(inspect("vmdk", &empty[..]).is_err());
        let mut far = image(HONEST);
        far[28..36].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(inspect("vmdk", &far[..]).is_err());
    }

    #[test]
    fn a_cut_off_header_is_refused_at_every_length() {
        let bytes = image(HONEST);
        for length in 4..600 {
            assert!(inspect("vmdk", &bytes[..length]).is_err(), "{length}");
        }
    }
}
