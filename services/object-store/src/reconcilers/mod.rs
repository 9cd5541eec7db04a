//! What runs by itself: removing data that no object has, settling data that
//! one has, and removing objects whose time is over.

mod expiry;
mod garbage;

pub use expiry::RemoveExpired;
pub use garbage::RemoveGarbage;
