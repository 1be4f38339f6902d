//! What was answered lately, by locations.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ckpt_inspect::stored;

use crate::store::locked;

/// How long an answer about files and folders holds. During a command, all that it began with or learnt since does.
const FRESH: Duration = Duration::from_secs(10);

/// Answers, each since when. The oldest half is dropped when they take more room than there is.
pub(crate) struct Answers<T> {
    kept: Mutex<Kept<T>>,
    room: usize,
    weigh: fn(&T) -> usize,
}

struct Kept<T> {
    answers: HashMap<String, (Instant, T)>,
    weight: usize,
}

impl<T: Clone> Answers<T> {
    pub fn new(room: usize, weigh: fn(&T) -> usize) -> Self {
        Answers { kept: Mutex::new(Kept { answers: HashMap::new(), weight: 0 }), room, weigh }
    }

    /// The answer about `location`, if there is one that holds.
    pub fn get(&self, location: &str) -> Option<T> {
        let kept = locked(&self.kept);
        let (since, answer) = kept.answers.get(location)?;
        let holds = since.elapsed() < FRESH
            || stored::command_began().is_some_and(|began| began.saturating_duration_since(*since) < FRESH);
        holds.then(|| answer.clone())
    }

    pub fn put(&self, location: &str, answer: T) {
        let mut kept = locked(&self.kept);
        kept.weight += (self.weigh)(&answer);
        if let Some((_, before)) = kept.answers.insert(location.to_string(), (Instant::now(), answer)) {
            kept.weight -= (self.weigh)(&before);
        }
        if kept.weight > self.room && kept.answers.len() > 1 {
            let mut times: Vec<Instant> = kept.answers.values().map(|(since, _)| *since).collect();
            let middle = times.len() / 2;
            let (_, middle, _) = times.select_nth_unstable(middle);
            let middle = *middle;
            kept.answers.retain(|_, (since, _)| *since >= middle);
            kept.weight = kept.answers.values().map(|(_, answer)| (self.weigh)(answer)).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_there_is_room_for_and_the_newest_stay() {
        let answers = Answers::new(100, |weight: &usize| *weight);
        for nth in 0..1000 {
            answers.put(&nth.to_string(), 3);
            assert!(locked(&answers.kept).weight <= 100);
            assert_eq!(answers.get(&nth.to_string()), Some(3));
        }
        assert_eq!(answers.get("0"), None);
    }
}
