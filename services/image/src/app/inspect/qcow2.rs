//! qcow2: the header of `docs/interop/qcow2` in QEMU's sources.
//!
//! Refused: backing files, external data files, encryption (no host could
//! open it), incompatible features that we don't know, and tables larger than
//! QEMU itself takes, which only exist to make a reader allocate.

use super::{Format, ReadAt, Refusal, be32, be64};

/// QEMU's own limits for the first-level table and the reference count table.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65_536;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// The size of the disk inside; `prefix` is the image's start.
pub fn virtual_size(data: &(impl ReadAt + ?Sized), prefix: &[u8]) -> Result<u64, Refusal> {
    let refuse = |reason: &str| Refusal::new(Format::Qcow2, reason);
    let cut = || refuse("its header is cut off");
    let version = be32(prefix, 4).ok_or_else(cut)?;
    let backing = be64(prefix, 8).ok_or_else(cut)?;
    let cluster_bits = be32(prefix, 20).ok_or_else(cut)?;
    let size = be64(prefix, 24).ok_or_else(cut)?;
    let encryption = be32(prefix, 32).ok_or_else(cut)?;
    let l1_entries = u64::from(be32(prefix, 36).ok_or_else(cut)?);
    let l1_offset = be64(prefix, 40).ok_or_else(cut)?;
    let refcount_offset = be64(prefix, 48).ok_or_else(cut)?;
    let refcount_clusters = u64::from(be32(prefix, 56).ok_or_else(cut)?);
    let snapshots = be32(prefix, 60).ok_or_else(cut)?;
    be64(prefix, 64).ok_or_else(cut)?;

    if backing != 0 || be32(prefix, 16) != Some(0) {
        return Err(refuse("it has a backing file"));
    }
    if !(9..=21).contains(&cluster_bits) {
        return Err(refuse("its cluster size is not one that exists"));
    }
    let cluster = 1u64 << cluster_bits;
    if encryption != 0 {
        return Err(refuse("it is encrypted"));
    }
    let mut header_length = 72;
    if version >= 3 {
        let features = be64(prefix, 72).ok_or_else(cut)?;
        header_length = u64::from(be32(prefix, 100).ok_or_else(cut)?);
        if features & DATA_FILE != 0 {
            return Err(refuse("its data is in another file"));
        }
        if features & CORRUPT != 0 {
            return Err(refuse("it is marked as corrupt"));
        }
        if features & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2) != 0 {
            return Err(refuse("it uses features that are not known"));
        }
        if header_length < 104 || header_length > cluster {
            return Err(refuse("its header has a length that cannot be"));
        }
        extensions(prefix, header_length)?;
    }
    if l1_entries * 8 > MAX_L1_BYTES {
        return Err(refuse("its cluster table is larger than any disk needs"));
    }
    if refcount_clusters * cluster > MAX_REFCOUNT_BYTES {
        return Err(refuse("its reference count table is too large"));
    }
    if snapshots > MAX_SNAPSHOTS {
        return Err(refuse("it has too many snapshots"));
    }
    for (offset, length) in [
        (l1_offset, l1_entries * 8),
        (refcount_offset, refcount_clusters * cluster),
    ] {
        let end = offset.checked_add(length);
        if length > 0
            && (offset < header_length
                || offset % cluster != 0
                || end.is_none_or(|end| end > data.size()))
        {
            return Err(refuse("a table lies outside of the data"));
        }
    }
    // One first-level entry reaches over cluster / 8 second-level entries of a
    // cluster each; a disk that its own table cannot reach is a lie.
    let reach = cluster / 8 * cluster;
    if size.div_ceil(reach) > l1_entries {
        return Err(refuse("its cluster table does not reach over its disk"));
    }
    Ok(size)
}

/// Walks the header extensions, which end with the first cluster.
fn extensions(prefix: &[u8], header_length: u64) -> Result<(), Refusal> {
    let mut offset = usize::try_from(header_length).unwrap_or(usize::MAX);
    // The table is in the first cluster; what we have of it is bounded.
    while let (Some(kind), Some(length)) =
        (be32(prefix, offset), be32(prefix, offset.saturating_add(4)))
    {
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_DATA_FILE => {
                return Err(Refusal::new(Format::Qcow2, "its data is in another file"));
            }
            _ => {}
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        offset = offset
            .saturating_add(8)
            .saturating_add(length.saturating_add(7) / 8 * 8);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::inspect;
    use super::*;

    /// A small image as `qemu-img create -f qcow2` lays it out.
    pub fn image(size: u64) -> Vec<u8> {
        let cluster = 65_536u64;
        let mut bytes = vec![0; 4 * 65_536];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, b"QFI\xfb");
        put(4, &3u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &size.to_be_bytes());
        let l1 = u32::try_from(size.div_ceil(cluster / 8 * cluster)).unwrap();
        put(36, &l1.to_be_bytes());
        put(40, &(3 * cluster).to_be_bytes());
        put(48, &cluster.to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &112u32.to_be_bytes());
        bytes
    }

    fn reason(bytes: &[u8]) -> String {
        inspect("qcow2", bytes).unwrap_err().to_string()
    }

    #[test]
    fn an_honest_image_tells_its_size() {
        assert_eq!(inspect("qcow2", &image(10 << 30)[..]).unwrap(), 10 << 30);
    }

    #[test]
    fn a_backing_file_is_refused() {
        let mut bytes = image(1 << 30);
        bytes[8..16].copy_from_slice(&512u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&11u32.to_be_bytes());
        bytes[512..523].copy_from_slice(b"/etc/shadow");
        assert!(reason(&bytes).contains("backing file"));
    }

    #[test]
    fn an_external_data_file_is_refused() {
        let mut bytes = image(1 << 30);
        bytes[79] = 4;
        assert!(reason(&bytes).contains("another file"));
        let mut bytes = image(1 << 30);
        bytes[112..116].copy_from_slice(&EXTENSION_DATA_FILE.to_be_bytes());
        bytes[116..120].copy_from_slice(&8u32.to_be_bytes());
        assert!(reason(&bytes).contains("another file"));
    }

    #[test]
    fn tables_must_be_sane() {
        let mut bytes = image(1 << 30);
        bytes[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(reason(&bytes).contains("larger"));
        let mut bytes = image(1 << 30);
        bytes[56..60].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(reason(&bytes).contains("too large"));
        let mut bytes = image(1 << 30);
        bytes[40..48].copy_from_slice(&(1u64 << 60).to_be_bytes());
        assert!(reason(&bytes).contains("outside"));
        let mut bytes = image(1 << 30);
        bytes[24..32].copy_from_slice(&(1u64 << 60).to_be_bytes());
        assert!(reason(&bytes).contains("reach"));
        let mut bytes = image(1 << 30);
        bytes[20..24].copy_from_slice(&40u32.to_be_bytes());
        assert!(reason(&bytes).contains("cluster size"));
        let mut bytes = image(1 << 30);
        bytes[35] = 2;
        assert!(reason(&bytes).contains("encrypted"));
        let mut bytes = image(1 << 30);
        bytes[72] = 0x80;
        assert!(reason(&bytes).contains("not known"));
    }

    #[test]
    fn a_cut_off_header_is_refused_at_every_length() {
        let bytes = image(1 << 30);
        for length in 4..112 {
            assert!(inspect("qcow2", &bytes[..length]).is_err(), "{length}");
        }
    }
}
