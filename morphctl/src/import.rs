//! `import`: the published code's YAML as an experiment.

use std::path::Path;

use anyhow::Result;
use morph_checkpoint::file;
use morph_spec::load::import;

use crate::{export::refused, print};

/// Prints the experiment, or writes it to `out`; what has no counterpart goes to stderr.
///
/// # Errors
/// Everything that is wrong in the file, or something is at `out`.
pub fn import(path: &Path, out: Option<&Path>, force: bool) -> Result<()> {
    let imported = import::file(path)?;
    imported.notes.iter().for_each(|note| say!("{}: {note}", path.display()));
    match out {
        Some(out) => {
            file::write(out, imported.yaml.as_bytes(), force).map_err(|e| refused(out, &e))?;
            say!("{}: written; `morphctl validate` shows it with every default", out.display());
        }
        None => print::line(imported.yaml.trim_end())?,
    }
    Ok(())
}
