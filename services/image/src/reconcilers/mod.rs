//! What runs by itself: giving back images whose uploader died, and removing
//! data that no image has and keys that nobody was promised any longer.

mod blobs;
mod keys;
mod uploads;

pub use blobs::RemoveLitter;
pub use keys::ForgetKeys;
pub use uploads::GiveBackAbandoned;
