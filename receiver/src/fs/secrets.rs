//! temporary
use crate::logic::secrets::Secrets;
use std::os::unix::ffi::OsStrExt;
/// x
pub fn read(path: &[u8], strict: bool) -> std::io::Result<Secrets> {
    use std::os::unix::fs::MetadataExt;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
    let meta = std::fs::metadata(path)?;
    if strict {
        crate::logic::secrets::strict_modes(meta.mode(), meta.uid(), 0)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
    }
    Ok(Secrets::new(zeroize::Zeroizing::new(std::fs::read(path)?)))
}
