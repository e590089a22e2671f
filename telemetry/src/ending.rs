//! Why a process ends. Whatever part of it ends first ends all; but a part that fails lets go of others, which may end in
//! peace before the failure itself is heard of.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// How long a failure may be on its way behind what it has brought down: it is there already, or there is none.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// The failure that ended the parts, of which the first has ended so; none if they were asked to end. A panic always counts.
pub async fn failure<E: From<JoinError> + 'static>(
    first: Option<Result<Result<(), E>, JoinError>>,
    parts: &mut JoinSet<Result<(), E>>,
    asked: bool,
) -> Result<(), E> {
    let mut ended = first;
    loop {
        match ended {
            Some(Ok(Err(error))) if !asked => return Err(error),
            Some(Err(panicked)) => return Err(panicked.into()),
            Some(Ok(_)) if !asked => {}
            Some(Ok(_)) | None => return Ok(()),
        }
        ended = timeout(ON_ITS_WAY, parts.join_next()).await.unwrap_or(None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Failed(String);

    impl From<JoinError> for Failed {
        fn from(error: JoinError) -> Failed {
            Failed(error.to_string())
        }
    }

    /// Seen with a full disk: the hub ended with exit code 0 and without a word.
    #[tokio::test]
    async fn a_failure_is_told_although_what_it_brought_down_has_ended_before_it() {
        let mut parts = JoinSet::new();
        let let_go = Arc::new(Notify::new());
        let heard = Arc::clone(&let_go);
        parts.spawn(async move {
            let_go.notify_one();
            tokio::task::yield_now().await;
            Err(Failed("the disk is full".to_owned()))
        });
        parts.spawn(async move {
            heard.notified().await;
            Ok(())
        });
        let in_peace = Some(Ok(Ok(())));
        assert_eq!(failure(in_peace, &mut parts, false).await, Err(Failed("the disk is full".to_owned())));
    }

    #[tokio::test]
    async fn who_was_asked_to_end_has_not_failed() {
        let mut parts = JoinSet::new();
        parts.spawn(async { Err(Failed("nobody listens any more".to_owned())) });
        assert_eq!(failure(Some(Ok(Ok(()))), &mut parts, true).await, Ok(()));
    }

    #[tokio::test]
    async fn parts_that_never_end_are_not_waited_for() {
        let mut parts: JoinSet<Result<(), Failed>> = JoinSet::new();
        parts.spawn(std::future::pending());
        assert_eq!(failure(Some(Ok(Ok(()))), &mut parts, false).await, Ok(()));
    }
}
