//! A throwaway certificate authority for tests, the demo and trying syncd out.
//!
//! [`Authority`] is a directory holding `ca.pem` and `ca.key`; it issues what a [`Request`] describes and
//! writes every certificate and key next to them. Wrong certificates (expired, not yet valid, another name,
//! another authority) are made on purpose here, since tests need them. Nothing of this is for production:
//! keys are unencrypted, and whoever reads `ca.key` can be anybody.
//!
//! What verifies certificates lives in the programs; this crate only makes them.

mod authority;
mod error;
mod files;
mod request;

pub use authority::{Authority, Issued};
pub use error::CertError;
pub use files::occupied;
pub use request::{Request, Role, Validity};
