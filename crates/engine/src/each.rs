//! Work on a list of items by all threads, for what is no array operation.

use rayon::prelude::*;

use crate::Engine;

impl Engine {
    /// Calls `task` with each item and its number. An item is worth a thread's while: thousands of steps.
    /// Which thread takes an item must not show in its result.
    pub fn for_each_mut<T: Send>(&self, items: &mut [T], task: impl Fn(usize, &mut T) + Sync + Send) {
        if self.num_threads() > 1 && items.len() > 1 {
            self.install(|| {
                items.par_iter_mut().enumerate().with_max_len(1).for_each(|(index, item)| task(index, item));
            });
        } else {
            items.iter_mut().enumerate().for_each(|(index, item)| task(index, item));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::engines;

    #[test]
    fn every_item_is_visited_once_with_its_number() {
        for engine in engines() {
            let mut items = vec![0; 100];
            engine.for_each_mut(&mut items, |index, item| *item += index + 1);
            assert_eq!(items, (1..=100).collect::<Vec<_>>());
            engine.for_each_mut(&mut items[..0], |_, _| unreachable!());
        }
    }
}
