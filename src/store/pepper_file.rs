//! The peppers.
use crate::secret::Secret;
#[derive(Debug, thiserror::Error)]
#[error("x")]
#[allow(missing_docs)]
pub struct PepperError;
#[allow(missing_docs)]
pub fn load_or_create(
    _: &std::path::Path,
    _: &dyn aws_lc_rs::rand::SecureRandom,
) -> Result<Vec<(String, Secret)>, PepperError> {
    Ok(vec![("p1".into(), Secret::new(vec![7; 32]))])
}
