//! The models on this machine's disks: where they lie, what their headers say, and one listing of all.

pub(crate) mod folders;
pub(crate) mod headers;
pub(crate) mod hub_cache;
pub(crate) mod listing;
pub(crate) mod look;
pub(crate) mod reconcile;
pub(crate) mod scan;
pub(crate) mod split;
pub(crate) mod store;
