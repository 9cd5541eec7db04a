//! Things to do once a transaction is committed, and not if it is not: wake a
//! worker, nudge a reconciler.

use std::future::Future;
use std::sync::{Arc, Mutex};

type Hook = Box<dyn FnOnce() + Send>;

tokio::task_local! {
    static PENDING: Hooks;
}

/// Runs `hook` when the transaction of the surrounding [`crate::Db::write`]
/// has been committed; never, if it is rolled back; at once, outside of one.
///
/// A nudge given before the commit finds nothing and is lost; this one cannot
/// be too early. The hook must be quick and must not block.
pub fn after_commit(hook: impl FnOnce() + Send + 'static) {
    let mut hook: Option<Hook> = Some(Box::new(hook));
    let _ = PENDING.try_with(|pending| {
        if let (Ok(mut list), Some(hook)) = (pending.0.lock(), hook.take()) {
            list.push(hook);
        }
    });
    if let Some(hook) = hook {
        hook();
    }
}

/// The hooks of one attempt at a transaction.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Arc<Mutex<Vec<Hook>>>);

impl Hooks {
    /// Collects here what `future` asks for.
    pub(crate) async fn collect<T>(&self, future: impl Future<Output = T>) -> T {
        PENDING.scope(self.clone(), future).await
    }

    /// The transaction is committed: does what was asked for.
    pub(crate) fn run(self) {
        let list = match self.0.lock() {
            Ok(mut list) => std::mem::take(&mut *list),
            Err(_) => return,
        };
        for hook in list {
            hook();
        }
    }
}
