//! The build engine, a library.
//!
//! ```text
//! BuildRequest ─ plan ─▶ Graph ─ solve ─▶ chains of layers ─ export ─▶ BuildResult
//! ```
//!
//! The engine never touches the terminal, the user's directories or credentials itself. Five
//! traits stand between: [`seam::Contexts`] (where context files come from),
//! [`kiln_registry_client::Credentials`], [`seam::Secrets`], [`seam::Results`] (where results
//! go) and [`progress::Progress`].

mod caches;
mod engine;
mod entitlement;
mod error;
mod export;
mod fetch;
mod images;
mod imports;
mod layers;
mod lost;
mod op;
mod plan;
pub mod progress;
mod request;
pub mod seam;
mod shell;
mod solver;
mod source;
mod step;
mod survey;

pub use caches::CacheDirectory;
pub use engine::{Client, Engine, EngineOptions};
pub use entitlement::Entitlement;
pub use error::{BuildError, Kind};
pub use fetch::{ARCHIVE_HEAD, FetchedContext, Fetcher, is_archive};
pub use images::{ImageDetails, ImageSummary, PlatformImage, PruneOptions, Pruned};
pub use kiln_runtime::Resources;
pub use op::exec::{KeptStep, Seat, ShellRequest};
pub use plan::parse as parse_build_file;
pub use request::{
    BuildFile, BuildRequest, BuildResult, BuiltImage, CacheSource, CacheTarget, Compression, Destination, LayerOptions,
    Output,
};
pub use step::Steps;
pub use survey::{SeenFile, survey};
