//! What is done to a home's database from outside: a backup while it is served, a move to PostgreSQL while it is not.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::{
    DATABASE, Error, home,
    store::{self, postgres::Server},
};

/// Writes what the database of `home` holds at this moment into the file `to`, which must not be there; its size in bytes. A
/// coordinator that serves the home goes on meanwhile. The file appears whole, or not at all; only its owner may read it.
///
/// # Errors
/// When there is no database, or `to` cannot be written.
pub fn backup(home: &Path, to: &Path) -> Result<u64, Error> {
    let fail = |action| move |source| Error::Home { action, path: to.to_owned(), source };
    if to.exists() {
        let why = "there is such a file, and it is not overwritten";
        return Err(fail("write")(io::Error::new(io::ErrorKind::AlreadyExists, why)));
    }
    let folder = match to.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let file = tempfile::NamedTempFile::new_in(folder).map_err(fail("write"))?;
    store::backup(&home.join(DATABASE), file.path())?;
    file.as_file().sync_all().map_err(fail("write"))?;
    let file = file.persist_noclobber(to).map_err(|e| fail("write")(e.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail("write"))?;
    Ok(file.metadata().map_err(fail("read"))?.len())
}

/// Copies the SQLite file `from` into `to`, a PostgreSQL that holds nothing yet, and compares; how many rows each table has.
/// The file stays as it is. Nobody may serve it, and none begins to meanwhile.
///
/// # Errors
/// When the file is served, or see [`store::copy`]; then `to` is as before.
pub fn copy(from: &Path, to: &Server) -> Result<Vec<(&'static str, u64)>, Error> {
    let file = from.canonicalize().map_err(|source| Error::Home { action: "find", path: from.to_owned(), source })?;
    let folder = file.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let _unserved = home::unserved(&folder)?;
    let holder = format!("morph-coordinator copy (pid {})", std::process::id());
    Ok(store::copy(&file, to, &holder)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use morph_control::{Event, What};
    use morph_spec::Timestamp;

    use super::*;
    use crate::store::{Batch, Database};

    fn batch(n: u64) -> Batch {
        Batch { events: vec![Event::new(Timestamp(n), What::CoordinatorStarted {})], ..Batch::default() }
    }

    fn times(path: &Path) -> Vec<u64> {
        let mut times = Vec::new();
        Database::sqlite(path).read().unwrap().replay(0, &mut |r| times.push(r.event.at.0)).unwrap();
        times
    }

    #[test]
    fn a_backup_is_whole_while_somebody_writes_and_is_never_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let mut writer = store::open(&home.path().join(DATABASE)).unwrap();
        (1..100).for_each(|n| writer.commit(&batch(n)).unwrap());
        let to = home.path().join("backup.db");
        let bytes = backup(home.path(), &to).unwrap();
        writer.commit(&batch(100)).unwrap();
        let meta = fs::metadata(&to).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (bytes, 0o600));
        assert_eq!(times(&to), (1..100).collect::<Vec<_>>());
        let refused = backup(home.path(), &to).unwrap_err().to_string();
        assert!(refused.contains("backup.db") && refused.contains("not overwritten"), "{refused}");
        // And it is a database to go on with.
        let mut restored = store::open(&to).unwrap();
        restored.commit(&batch(7)).unwrap();
        assert_eq!(times(&to).len(), 100);
    }

    #[test]
    fn what_cannot_be_backed_up_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("backup.db");
        let none = backup(home.path(), &to).unwrap_err().to_string();
        assert!(none.contains(DATABASE), "{none}");
        let nowhere = backup(home.path(), &home.path().join("no/such/folder.db")).unwrap_err().to_string();
        assert!(nowhere.contains("folder.db"), "{nowhere}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
