//! VHD and VHDX, of Microsoft's published specifications. Difference images
//! have parents and are refused.

use super::{Format, ReadAt, Refusal, be32, be64, le16, le32, le64};

const FOOTER: u64 = 512;

/// Whether the data ends with the footer of a (fixed) VHD.
pub fn has_footer(data: &(impl ReadAt + ?Sized)) -> Result<bool, Refusal> {
    let Some(offset) = data.size().checked_sub(FOOTER) else {
        return Ok(false);
    };
    let footer = data.bytes(offset, 8).map_err(Refusal::Io)?;
    Ok(footer == b"conectix")
}

/// The size of the disk inside; `prefix` is the image's start.
pub fn vhd_virtual_size(data: &(impl ReadAt + ?Sized), prefix: &[u8]) -> Result<u64, Refusal> {
    let cut = || Refusal::new(Format::Vhd, "its footer is cut off");
    let end;
    let footer = if prefix.starts_with(b"conectix") {
        prefix
    } else {
        let offset = data.size().checked_sub(FOOTER).ok_or_else(cut)?;
        end = data.bytes(offset, 512).map_err(Refusal::Io)?;
        &end
    };
    let size = be64(footer, 48).ok_or_else(cut)?;
    // 2 is fixed, 3 is dynamic, 4 is a difference to a parent.
    match be32(footer, 60).ok_or_else(cut)? {
        2 | 3 => Ok(size),
        _ => Err(Refusal::new(Format::Vhd, "it depends on another image")),
    }
}

const REGION_TABLE: u64 = 192 * 1024;
const METADATA_REGION: [u8; 16] = [
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
];
const FILE_PARAMETERS: [u8; 16] = [
    0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b,
];
const VIRTUAL_DISK_SIZE: [u8; 16] = [
    0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8,
];
const PARENT_LOCATOR: [u8; 16] = [
    0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c,
];
/// The specification's own bound for entries in either table.
const MAX_ENTRIES: usize = 2047;

/// The size of the disk inside.
pub fn vhdx_virtual_size(data: &(impl ReadAt + ?Sized)) -> Result<u64, Refusal> {
    let refuse = |reason: &str| Refusal::new(Format::Vhdx, reason);
    let cut = || refuse("its header is cut off");
    let regions = data.bytes(REGION_TABLE, 64 * 1024).map_err(Refusal::Io)?;
    if !regions.starts_with(b"regi") {
        return Err(refuse("it has no region table"));
    }
    let count = usize::try_from(le32(&regions, 8).ok_or_else(cut)?).unwrap_or(usize::MAX);
    let metadata = (0..count.min(MAX_ENTRIES))
        .map(|index| 16 + index * 32)
        .find(|offset| regions.get(*offset..offset + 16) == Some(&METADATA_REGION[..]))
        .and_then(|offset| le64(&regions, offset + 16))
        .ok_or_else(|| refuse("it has no metadata"))?;
    let table = data.bytes(metadata, 64 * 1024).map_err(Refusal::Io)?;
    if !table.starts_with(b"metadata") {
        return Err(refuse("it has no metadata"));
    }
    let count = usize::from(le16(&table, 10).ok_or_else(cut)?);
    let mut size = None;
    let mut parameters = None;
    for index in 0..count.min(MAX_ENTRIES) {
        let offset = 32 + index * 32;
        let Some(kind) = table.get(offset..offset + 16) else {
            break;
        };
        if kind == PARENT_LOCATOR {
            return Err(refuse("it depends on another image"));
        }
        let place = le32(&table, offset + 16)
            .and_then(|item| metadata.checked_add(u64::from(item)))
            .ok_or_else(cut)?;
        if kind == VIRTUAL_DISK_SIZE {
            let item = data.bytes(place, 8).map_err(Refusal::Io)?;
            size = le64(&item, 0);
        } else if kind == FILE_PARAMETERS {
            let item = data.bytes(place, 8).map_err(Refusal::Io)?;
            parameters = le32(&item, 4);
        }
    }
    // Bit 1: there is a parent.
    if parameters.ok_or_else(cut)? & 2 != 0 {
        return Err(refuse("it depends on another image"));
    }
    size.ok_or_else(cut)
}

#[cfg(test)]
mod tests {
    use super::super::inspect;
    use super::*;

    fn footer(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[0..8].copy_from_slice(b"conectix");
        bytes[48..56].copy_from_slice(&(1u64 << 30).to_be_bytes());
        bytes[60..64].copy_from_slice(&kind.to_be_bytes());
        bytes
    }

    #[test]
    fn a_vhd_is_known_by_its_start_or_its_end() {
        assert_eq!(inspect("vhd", &footer(3)[..]).unwrap(), 1 << 30);
        let mut fixed = vec![0; 4096];
        fixed.extend(footer(2));
        assert_eq!(inspect("vhd", &fixed[..]).unwrap(), 1 << 30);
        assert!(inspect("vhd", &footer(4)[..]).is_err());
    }

    fn vhdx(parameters: u32) -> Vec<u8> {
        let mut bytes = vec![0; 3 << 20];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, b"vhdxfile");
        put(196_608, b"regi");
        put(196_616, &1u32.to_le_bytes());
        put(196_624, &METADATA_REGION);
        put(196_640, &(2u64 << 20).to_le_bytes());
        let table = 2 << 20;
        put(table, b"metadata");
        put(table + 10, &2u16.to_le_bytes());
        put(table + 32, &FILE_PARAMETERS);
        put(table + 48, &65_536u32.to_le_bytes());
        put(table + 64, &VIRTUAL_DISK_SIZE);
        put(table + 80, &65_544u32.to_le_bytes());
        put(table + 65_540, &parameters.to_le_bytes());
        put(table + 65_544, &(5u64 << 30).to_le_bytes());
        bytes
    }

    #[test]
    fn a_vhdx_with_a_parent_is_refused() {
        assert_eq!(inspect("vhdx", &vhdx(0)[..]).unwrap(), 5 << 30);
        assert!(inspect("vhdx", &vhdx(2)[..]).is_err());
        let mut located = vhdx(0);
        let entry = (2 << 20) + 64;
        located[entry..entry + 16].copy_from_slice(&PARENT_LOCATOR);
        assert!(inspect("vhdx", &located[..]).is_err());
        assert!(inspect("vhdx", &b"vhdxfile"[..]).is_err());
    }
}
