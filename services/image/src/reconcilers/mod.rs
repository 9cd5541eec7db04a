//! What runs by itself: giving back images whose uploader died, and removing
//! data that no image has.

mod blobs;
mod uploads;

pub use blobs::RemoveLitter;
pub use uploads::GiveBackAbandoned;
