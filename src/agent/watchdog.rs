//! Tells the service manager again and again that every data-plane thread still answers (`WatchdogSec=`, sd_notify(3)).

use sd_notify::NotifyState;

use crate::proxy::Recollection;

/// Tells it for as long as it wants to be told; one thread that does not answer in time, and it is not told.
pub(super) async fn keep_alive(threads: Recollection) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let every = within / 2;
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(every, threads.is_alive()).await {
            Ok(true) => {
                if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                    tracing::debug!(%error, "the service manager cannot be told");
                }
            }
            Ok(false) | Err(_) => tracing::error!("a data-plane thread does not answer"),
        }
    }
}
