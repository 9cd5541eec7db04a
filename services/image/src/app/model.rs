//! What an image is.
//!
//! ```text
//!            PUT file                data checked
//!  queued ────────────▶ saving ───────────────────▶ active ⇄ deactivated
//!     ▲                    │
//!     └────────────────────┘  cut off, refused, or the process died
//! ```
//! Any of them can be deleted, if the image is not protected. The data of an
//! active image never changes.

use std::collections::BTreeMap;
use std::fmt;

use yakumo_types::{Fault, ImageId, ProjectId, Timestamp};

use crate::drivers::BlobId;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in the words of the API.
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

            /// The word of the API.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The one of that word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.word())
            }
        }
    };
}

words! {
    /// How far an image's data is.
    Status {
        /// There is no data yet.
        Queued = "queued",
        /// Somebody uploads it.
        Saving = "saving",
        /// It can be used.
        Active = "active",
        /// It is there, and an administrator closed it.
        Deactivated = "deactivated",
    }
}

words! {
    /// Who may use an image.
    Visibility {
        /// Everybody; it is in everybody's listing.
        Public = "public",
        /// The owner's project.
        Private = "private",
        /// The owner's project and its members.
        Shared = "shared",
        /// Everybody who knows its id.
        Community = "community",
    }
}

words! {
    /// What a member says to an image that is shared with it.
    MemberStatus {
        /// It did not say anything yet.
        Pending = "pending",
        /// It wants the image in its listing.
        Accepted = "accepted",
        /// It does not.
        Rejected = "rejected",
    }
}

/// The disk formats that are taken.
pub const DISK_FORMATS: &[&str] = &[
    "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso",
];
/// The container formats that are taken: the data is the disk itself.
pub const CONTAINER_FORMATS: &[&str] = &["ami", "ari", "aki", "bare"];

/// What is known about data once it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// Bytes of the disk inside.
    pub virtual_size: u64,
    /// MD5, hexadecimal.
    pub md5: String,
    /// SHA-512, hexadecimal.
    pub sha512: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// The project that it belongs to.
    pub owner: ProjectId,
    /// Not unique, and there may be none.
    pub name: Option<String>,
    /// How far its data is.
    pub status: Status,
    /// Who may use it.
    pub visibility: Visibility,
    /// Whether it cannot be deleted.
    pub protected: bool,
    /// Whether listings leave it out.
    pub hidden: bool,
    /// One of [`DISK_FORMATS`].
    pub disk_format: Option<String>,
    /// One of [`CONTAINER_FORMATS`].
    pub container_format: Option<String>,
    /// GiB that a server's disk must have.
    pub min_disk: u64,
    /// MiB that a server's memory must have.
    pub min_ram: u64,
    /// The data; none before it is there.
    pub stored: Option<Stored>,
    /// Where the data is, or goes to while somebody uploads it.
    pub blob: Option<BlobId>,
    /// Names and values that mean something to others.
    pub properties: BTreeMap<String, String>,
    /// In order.
    pub tags: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A project that an image is shared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The image.
    pub image_id: ImageId,
    /// The project.
    pub project_id: ProjectId,
    /// What it says to that.
    pub status: MemberStatus,
    /// Since when.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// How much of everything an image may have; small numbers that no honest
/// client meets, so that nobody can make a listing slow.
pub mod limits {
    /// Custom properties.
    pub const PROPERTIES: usize = 128;
    /// Characters of a property's name.
    pub const PROPERTY_NAME: usize = 255;
    /// Bytes of a property's value.
    pub const PROPERTY_VALUE: usize = 8 * 1024;
    /// Tags.
    pub const TAGS: usize = 128;
    /// Characters of a tag.
    pub const TAG: usize = 255;
    /// Characters of a name.
    pub const NAME: usize = 255;
    /// Members.
    pub const MEMBERS: u64 = 128;
    /// The largest `min_disk` and `min_ram`.
    pub const MINIMUM: u64 = 2_147_483_647;
}

/// Names that are an image's own and can never be a custom property.
pub const BASE_ATTRIBUTES: &[&str] = &[
    "checksum",
    "container_format",
    "created_at",
    "direct_url",
    "disk_format",
    "file",
    "id",
    "locations",
    "min_disk",
    "min_ram",
    "name",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
    "owner",
    "protected",
    "schema",
    "self",
    "size",
    "status",
    "tags",
    "updated_at",
    "virtual_size",
    "visibility",
];

/// Those of [`BASE_ATTRIBUTES`] that only the service sets.
pub const READ_ONLY: &[&str] = &[
    "checksum",
    "created_at",
    "direct_url",
    "file",
    "os_hash_algo",
    "os_hash_value",
    "schema",
    "self",
    "size",
    "status",
    "updated_at",
    "virtual_size",
];

/// Checks a tag.
pub fn check_tag(tag: &str) -> Result<&str, Fault> {
    yakumo_types::check_name("A tag", tag, limits::TAG)
}

/// Checks a custom property.
pub fn check_property(name: &str, value: &str) -> Result<(), Fault> {
    if name.trim() != name {
        return Err(Fault::invalid(
            "A property's name must not begin or end with blanks.",
        ));
    }
    yakumo_types::check_name("A property's name", name, limits::PROPERTY_NAME)?;
    if value.len() > limits::PROPERTY_VALUE {
        return Err(Fault::invalid(format!(
            "The value of the property {name} must not be longer than {} bytes.",
            limits::PROPERTY_VALUE
        )));
    }
    yakumo_types::check_description("A property's value", value, limits::PROPERTY_VALUE)
}

/// Checks a whole image against the bounds that need all of it.
pub fn check_bounds(image: &Image) -> Result<(), Fault> {
    if image.properties.len() > limits::PROPERTIES {
        return Err(Fault::too_large(format!(
            "An image must not have more than {} properties.",
            limits::PROPERTIES
        )));
    }
    if image.tags.len() > limits::TAGS {
        return Err(Fault::too_large(format!(
            "An image must not have more than {} tags.",
            limits::TAGS
        )));
    }
    Ok(())
}
