//! A folder in an object store for threads that may wait: those that decode images.

use std::{
    future::Future,
    ops::Range,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::{Entry, Error, Objects};

/// [`Objects`] whose calls block. They are answered by a thread of its own, so that it works within other runtimes and beside them.
/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blocking {
    objects: Objects,
    thread: Arc<Thread>,
}

/// Answers.
#[derive(Debug)]
struct Thread(Option<Runtime>);

impl Drop for Thread {
    fn drop(&mut self) {
        // Dropping it would wait, and that is not allowed within another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Blocking {
    /// Opens the folder at `location`, as [`Objects::open`] does.
    ///
    /// # Errors
    /// As that, and when there is no thread to be had.
    pub fn open(location: &str) -> Result<Self, Error> {
        let objects = Objects::open(location)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("objects").enable_all().build();
        let runtime = runtime.map_err(|e| Error::io("read", std::path::Path::new(location), e))?;
        Ok(Self { objects, thread: Arc::new(Thread(Some(runtime))) })
    }

    fn wait<T: Send + 'static>(&self, answer: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let runtime = self.thread.0.as_ref().expect("invariant: it is taken when it is dropped");
        runtime.spawn(async move { drop(sender.send(answer.await)) });
        receiver.recv().expect("invariant: the thread lives as long as this, and answers")
    }

    /// The folder's URL.
    pub fn url(&self) -> String {
        self.objects.url()
    }

    /// The URL of `key` in this folder.
    pub fn url_of(&self, key: &str) -> String {
        self.objects.url_of(key)
    }

    /// As [`Objects::list`], of everything.
    ///
    /// # Errors
    /// As that.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let objects = self.objects.clone();
        self.wait(async move { objects.list("").await })
    }

    /// As [`Objects::get_range`].
    ///
    /// # Errors
    /// As that.
    pub fn get_range(&self, entry: &Entry, range: Range<u64>) -> Result<Bytes, Error> {
        let (objects, entry) = (self.objects.clone(), entry.clone());
        self.wait(async move { objects.get_range(&entry, range).await })
    }

    /// As [`Objects::get_up_to`].
    ///
    /// # Errors
    /// As that.
    pub fn get_up_to(&self, key: &str, most: u64) -> Result<Bytes, Error> {
        let (objects, key) = (self.objects.clone(), key.to_owned());
        self.wait(async move { objects.get_up_to(&key, most).await })
    }
}
