//! Gathers what many say often, so that it is written down together.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use yakumo_types::Fault;

use crate::Process;

/// The newest word of each speaker that is not written down yet.
#[derive(Debug)]
pub struct Gather<V> {
    words: Mutex<Words<V>>,
    newcomer: Notify,
}

#[derive(Debug)]
struct Words<V> {
    waiting: BTreeMap<String, V>,
    known: BTreeSet<String>,
}

impl<V> Default for Gather<V> {
    fn default() -> Self {
        Self {
            words: Mutex::new(Words {
                waiting: BTreeMap::new(),
                known: BTreeSet::new(),
            }),
            newcomer: Notify::new(),
        }
    }
}

impl<V: Clone + Send> Gather<V> {
    fn words(&self) -> MutexGuard<'_, Words<V>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what `speaker` said in the place of what it said before. Somebody
    /// who was not heard before is written down at once.
    pub fn add(&self, speaker: String, word: V) {
        let mut words = self.words();
        if words.known.insert(speaker.clone()) {
            self.newcomer.notify_one();
        }
        words.waiting.insert(speaker, word);
    }

    fn take(&self) -> BTreeMap<String, V> {
        std::mem::take(&mut self.words().waiting)
    }

    fn put_back(&self, batch: BTreeMap<String, V>) {
        let mut words = self.words();
        for (speaker, word) in batch {
            words.waiting.entry(speaker).or_insert(word);
        }
    }

    /// Writes what was gathered by `write`, at most every `every` but for
    /// newcomers, until the process ends. What could not be written is written
    /// with the next.
    pub async fn write_down<F>(
        &self,
        process: &Process,
        every: Duration,
        mut write: impl FnMut(BTreeMap<String, V>) -> F,
    ) where
        F: Future<Output = Result<(), Fault>>,
    {
        let clock = &process.env.clock;
        loop {
            tokio::select! {
                biased;
                () = process.shutdown.cancelled() => return,
                () = self.newcomer.notified() => {}
                () = clock.sleep(every) => {}
            }
            let batch = self.take();
            if batch.is_empty() {
                continue;
            }
            if let Err(fault) = write(batch.clone()).await {
                tracing::warn!(%fault, "what hosts said could not be written down yet");
                self.put_back(batch);
                clock.sleep(every).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system_env;
    use std::sync::Arc;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_newcomer_is_written_at_once_and_what_failed_is_written_later() {
        let gather = Arc::new(Gather::<u32>::default());
        let process = Process::new("test", system_env());
        let (sender, mut written) = mpsc::unbounded_channel();
        let task = {
            let (gather, process) = (Arc::clone(&gather), process.clone());
            tokio::spawn(async move {
                let mut failures = 1;
                let write = |batch: BTreeMap<String, u32>| {
                    let fails = failures > 0;
                    failures = 0;
                    let sender = sender.clone();
                    async move {
                        if fails {
                            return Err(Fault::unavailable("not now"));
                        }
                        let _ = sender.send(batch);
                        Ok(())
                    }
                };
                gather
                    .write_down(&process, Duration::from_millis(20), write)
                    .await;
            })
        };
        gather.add("a".into(), 1);
        let batch = written.recv().await.unwrap();
        assert_eq!(batch, BTreeMap::from([("a".to_owned(), 1)]));
        // The newest word counts.
        gather.add("a".into(), 2);
        gather.add("a".into(), 3);
        let batch = written.recv().await.unwrap();
        assert_eq!(batch["a"], 3);
        process.shutdown.cancel();
        task.await.unwrap();
    }

    #[test]
    fn what_is_put_back_does_not_overwrite_what_came_meanwhile() {
        let gather = Gather::<u32>::default();
        gather.add("a".into(), 1);
        let batch = gather.take();
        gather.add("a".into(), 2);
        gather.put_back(batch);
        assert_eq!(gather.take()["a"], 2);
        assert!(gather.take().is_empty());
    }
}
