//! One lane a disc: orders about a disc run one after the other, those about different discs at once.

use super::command::Order;
use spine::{id::DiscNumber, message::Answer};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
};
use tokio::task::{Id, JoinSet};

/// Orders that may wait or run, over all connections: several times what one connection may have
/// unanswered.
pub const ORDERS_MAX: usize = 4096;

/// The lanes. `T` is what an order's answer needs to find its way back.
#[derive(Debug)]
pub struct Lanes<T> {
    /// A disc is listed while an order about it runs; the others wait in the queue.
    queues: BTreeMap<DiscNumber, VecDeque<(T, Order)>>,
    running: JoinSet<Answer>,
    /// Which order a task is: a panic says nothing else of it.
    started: HashMap<Id, (DiscNumber, T)>,
    orders_count: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), running: JoinSet::new(), started: HashMap::new(), orders_count: 0 }
    }
}

impl<T> Lanes<T> {
    /// True when nothing runs or waits.
    pub fn is_empty(&self) -> bool {
        self.orders_count == 0
    }

    /// Takes an order, and starts it unless another one about the disc runs.
    ///
    /// # Errors
    /// Gives `token` back when too many orders wait.
    pub fn push<F>(&mut self, token: T, order: Order, run: impl FnOnce(Order) -> F) -> Result<(), T>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        if self.orders_count >= ORDERS_MAX {
            return Err(token);
        }
        self.orders_count += 1;
        let number = order.number();
        match self.queues.get_mut(&number) {
            Some(queue) => queue.push_back((token, order)),
            None => {
                self.queues.insert(number, VecDeque::new());
                self.start(number, token, run(order));
            }
        }
        Ok(())
    }

    /// Waits for the end of an order and starts the next one of its lane. Never ends when there is
    /// none. Nothing is lost when the future is dropped before it is ready.
    pub async fn next<F>(&mut self, run: impl FnOnce(Order) -> F) -> (DiscNumber, T, Result<Answer, String>)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let Some(ended) = self.running.join_next_with_id().await else { return std::future::pending().await };
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Ok(answer)),
            Err(error) => (error.id(), Err(error.to_string())),
        };
        let (number, token) = self.started.remove(&id).expect("each task is entered when it is started");
        self.orders_count -= 1;
        match self.queues.get_mut(&number).and_then(VecDeque::pop_front) {
            Some((token, order)) => self.start(number, token, run(order)),
            None => drop(self.queues.remove(&number)),
        }
        (number, token, answer)
    }

    fn start<F>(&mut self, number: DiscNumber, token: T, order: F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let task = self.running.spawn(order);
        self.started.insert(task.id(), (number, token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::{id::Generation, resource::Attributes};
    use std::sync::{Arc, Mutex};
    use tokio::sync::Semaphore;

    fn order(number: u64, generation: u64) -> Order {
        Order::Remove(format!("sata.{number}").parse().unwrap(), Generation(generation), None)
    }

    #[tokio::test]
    async fn rule1_one_disc_in_order_and_different_discs_at_once() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Semaphore::new(0));
        let run = |order: Order| {
            let (log, gate) = (log.clone(), gate.clone());
            async move {
                log.lock().unwrap().push(order);
                gate.acquire().await.unwrap().forget();
                Answer::Ok(Attributes::new())
            }
        };
        let mut lanes = Lanes::default();
        for (token, order) in [order(1, 1), order(1, 2), order(2, 1), order(1, 3)].into_iter().enumerate() {
            lanes.push(token, order, run).unwrap();
        }
        // Both discs start although nothing has ended yet.
        while log.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*log.lock().unwrap(), [order(1, 1), order(2, 1)]);
        gate.add_permits(4);
        let mut tokens = Vec::new();
        while !lanes.is_empty() {
            tokens.push(lanes.next(run).await.1);
        }
        let of_disc_1: Vec<_> = tokens.iter().filter(|token| **token != 2).collect();
        assert_eq!(of_disc_1, [&0, &1, &3]);
    }

    #[tokio::test]
    async fn a_panic_ends_one_order_only() {
        let mut lanes = Lanes::default();
        let run = |order: Order| async move {
            assert_ne!(order.number(), DiscNumber(1), "this order panics");
            Answer::Ok(Attributes::new())
        };
        lanes.push("first", order(1, 1), run).unwrap();
        let (_, token, answer) = lanes.next(run).await;
        assert_eq!(token, "first");
        assert!(answer.is_err());
        lanes.push("second", order(2, 1), run).unwrap();
        assert!(lanes.next(run).await.2.is_ok());
    }

    #[tokio::test]
    async fn too_many_orders_are_refused() {
        let mut lanes = Lanes::default();
        let run = |_| async { Answer::Ok(Attributes::new()) };
        for token in 0..ORDERS_MAX {
            lanes.push(token, order(1, 1), run).unwrap();
        }
        assert_eq!(lanes.push(9, order(1, 1), run), Err(9));
    }
}
