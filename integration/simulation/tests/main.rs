//! Seeds by the hundred, and the machinery's own promises.

mod cloud;
mod errands;
