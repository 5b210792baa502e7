//! What the agent orders, as the trainer sees it.

use std::{
    io::BufRead,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use morph_proto::v1::StartRank;

use crate::{
    rank::{events::Events, failure::Failure},
    wire::{Event, Exit, Order, decode_start},
};

/// How long the last spans of a trace may take to be sent, where there are any.
const FAREWELL: Duration = Duration::from_millis(500);

/// Orders that have come so far.
#[derive(Debug, Default)]
pub struct Orders {
    stop: AtomicBool,
    /// There is something to save: a stop order waits for the end of the step.
    training: AtomicBool,
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    start: Option<StartRank>,
    rendezvous: Option<String>,
    acknowledged: Vec<u64>,
}

impl Orders {
    /// Reads orders from `input` in a thread of its own. The end of input means that the agent is gone: the process exits.
    pub fn read(input: impl BufRead + Send + 'static, events: Arc<Events>) -> Arc<Self> {
        let orders = Arc::new(Self::default());
        let shared = Arc::clone(&orders);
        std::thread::spawn(move || {
            for line in input.lines() {
                let Ok(line) = line else { break };
                match serde_json::from_str(&line) {
                    Ok(order) => shared.take(order, &events),
                    Err(e) => tracing::warn!("an order that cannot be read was left out: {e}"),
                }
            }
            tracing::error!("the agent is gone, and with it this rank");
            // Not `process::exit`: its atexit handlers would pull libtorch's statics away from the thread that trains.
            morph_collective::native::exit(1);
        });
        orders
    }

    fn take(&self, order: Order, events: &Events) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        match order {
            Order::Start { start_rank } => match decode_start(&start_rank) {
                Ok(start) => inbox.start = Some(start),
                Err(error) => leave(events, Exit::Infra, error),
            },
            Order::Rendezvous { address } => inbox.rendezvous = Some(address),
            Order::CheckpointAck { step } => inbox.acknowledged.push(step),
            Order::Stop { reason } => {
                tracing::info!("asked to stop: {reason}");
                self.stop.store(true, Ordering::SeqCst);
                if !self.training.load(Ordering::SeqCst) {
                    leave(events, Exit::Stopped, String::new());
                }
            }
        }
        drop(inbox);
        self.changed.notify_all();
    }

    /// From now on a stop order lets the trainer finish its step and save.
    ///
    /// # Errors
    /// [`Failure::Stopped`] when one has come already.
    pub fn begin_training(&self) -> Result<(), Failure> {
        self.training.store(true, Ordering::SeqCst);
        if self.stop_requested() { Err(Failure::Stopped) } else { Ok(()) }
    }

    /// Whether this rank was asked to stop. The others may not have been: they must agree on the step.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Asks to stop, as an order would.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Waits for the start order.
    pub fn start(&self) -> StartRank {
        self.wait(|inbox| inbox.start.take())
    }

    /// Waits until it is known where rank 0 serves the store: `host:port`.
    pub fn rendezvous(&self) -> String {
        self.wait(|inbox| inbox.rendezvous.clone())
    }

    /// Steps whose checkpoints were acknowledged since the last call.
    pub fn acknowledged(&self) -> Vec<u64> {
        std::mem::take(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner).acknowledged)
    }

    fn wait<T>(&self, mut find: impl FnMut(&mut Inbox) -> Option<T>) -> T {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&mut inbox) {
                return found;
            }
            inbox = self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Says how the process ends, and ends it. Destructors do not run: they could wait for peers that are gone.
pub fn leave(events: &Events, exit: Exit, error: String) -> ! {
    let code = match exit {
        Exit::Succeeded | Exit::Stopped => 0,
        _ => 1,
    };
    events.say(&Event::Exiting { exit, error });
    morph_telemetry::finish(FAREWELL);
    morph_collective::native::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_reach_who_waits_for_them() {
        let orders = Arc::new(Orders::default());
        let events = Events::silent();
        orders.begin_training().unwrap();
        let waiting = std::thread::spawn({
            let orders = Arc::clone(&orders);
            move || orders.rendezvous()
        });
        orders.take(Order::Rendezvous { address: "h:7".into() }, &events);
        assert_eq!(waiting.join().unwrap(), "h:7");
        orders.take(Order::CheckpointAck { step: 5 }, &events);
        assert_eq!(orders.acknowledged(), [5]);
        assert!(orders.acknowledged().is_empty());
        assert!(!orders.stop_requested());
        orders.take(Order::Stop { reason: "x".into() }, &events);
        assert!(orders.stop_requested());
    }
}
