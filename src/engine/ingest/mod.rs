//! Taking uploads: the sessions of clients, over a store of sessions and a storage.

pub mod session_store;
