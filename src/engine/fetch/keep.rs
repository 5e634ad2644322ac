//! Remembering what arrived without a manifest: its own manifest is kept, so that the same version is not fetched again, and
//! a later one can be compared with it.

use std::path::PathBuf;

use crate::{
    core::{
        manifest::{self, Particulars, Tree},
        tree::Root,
    },
    disk::{
        destination::unix_time,
        state::{Arrived, State, StateError},
    },
    net::client::Validators,
};

use super::{super::events::Event, Fetch, joined};

impl Fetch<'_> {
    /// The object that came from this URL as this version, in whichever run.
    pub(super) async fn arrived_before(&mut self, validators: &Validators) -> Option<Root> {
        let (url, validators) = (self.options.url.to_string(), validators.clone());
        if !validators.are_strong() {
            return None;
        }
        let look_up = move |folder: PathBuf| {
            let state = State::open(&folder)?;
            let (etag, date) = (&validators.etag, &validators.last_modified);
            state.arrived(&url, etag.as_deref(), date.as_deref())
        };
        self.in_state(look_up).await.flatten()
    }

    /// Keeps the manifest of a file that has just got its name.
    pub(super) async fn keep(&mut self, tree: Tree, validators: &Validators) {
        let arrived = Arrived {
            root: tree.root(),
            url: self.options.url.to_string(),
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
            at: unix_time(),
        };
        let name = self.options.url.safe_name().unwrap_or_default();
        let keep = move |folder: PathBuf| {
            let particulars = Particulars {
                name,
                ..Particulars::default()
            };
            let manifest = manifest::to_bytes(&tree, None, particulars);
            State::open(&folder)?.keep_manifest(&arrived, &manifest)
        };
        self.in_state(keep).await;
    }

    /// Works with the state, if there is one. What goes wrong there is one warning and never an error of the fetch.
    async fn in_state<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(PathBuf) -> Result<T, StateError> + Send + 'static,
    ) -> Option<T> {
        let folder = self.options.state.clone()?;
        match joined(tokio::task::spawn_blocking(move || work(folder))).await {
            Ok(done) => Some(done),
            Err(error) => {
                self.warn_of_state(&error);
                None
            }
        }
    }

    /// Once a run: the same trouble need not be told again.
    pub(super) fn warn_of_state(&mut self, error: &StateError) {
        self.options.state = None;
        self.events.event(Event::Warning {
            message: error.to_string(),
        });
    }
}
