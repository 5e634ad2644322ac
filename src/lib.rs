pub mod core;
pub mod disk;
pub mod engine;
pub mod net;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
pub use cli::run;
