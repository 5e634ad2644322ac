//! What must be true of an object before any byte of it is requested, and what is trusted then.

use crate::format::{
    digests::{Algorithm, Digest},
    trust::Trust,
};

/// What the user's own digests prove: a strong one is as good as a root.
pub fn trust_of_user(digests: &[Digest]) -> Trust {
    let strong = |digest: &Digest| {
        matches!(
            digest.algorithm(),
            Algorithm::Sha256 | Algorithm::Sha512 | Algorithm::Blake3
        )
    };
    match digests {
        [] => Trust::None,
        digests if digests.iter().any(strong) => Trust::Root,
        _ => Trust::Digest,
    }
}
