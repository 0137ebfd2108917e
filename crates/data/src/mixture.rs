//! Several data sets as one: all of their examples, or shares by weight.

use crate::ledger::{Ledger, SourceCount};
use crate::load::Loaded;
use crate::origin::Origin;
use crate::pair::Prompted;
use bso_durable::{Seed, fingerprint_bytes};

/// One data set of a mixture, read.
#[derive(Clone, Debug)]
pub struct Part<T> {
    /// Its name for the account.
    pub name: String,
    /// Its share, in proportion to the other weights: finite and above 0.
    pub weight: f64,
    /// Its examples.
    pub loaded: Loaded<T>,
}

/// The examples of all parts, part after part. If `by_weight`, they stand in the proportions of the weights: the largest
/// number of rows at which no row is used twice, chosen by `seed`; the others are counted as dropped. A row whose pair
/// gave several examples is used whole or not at all.
pub fn mix<T: Prompted>(parts: Vec<Part<T>>, by_weight: bool, seed: Seed) -> (Vec<T>, Ledger) {
    let several = parts.len() > 1;
    let rows: Vec<usize> = parts.iter().map(|part| rows(&part.loaded.examples)).collect();
    let weights: f64 = parts.iter().map(|part| part.weight).sum();
    let share = |part: &Part<T>| part.weight / weights;
    let total =
        parts.iter().zip(&rows).map(|(part, n)| *n as f64 / share(part)).fold(f64::INFINITY, f64::min);
    let (mut examples, mut ledger) = (Vec::new(), Ledger::default());
    for (index, (part, n)) in parts.into_iter().zip(rows).enumerate() {
        let wanted = if by_weight { ((total * share(&part)).round() as usize).clamp(1, n.max(1)) } else { n };
        let Part { name, loaded, .. } = part;
        let read = loaded.ledger.read;
        ledger.absorb(loaded.ledger);
        let kept = sampled(loaded.examples, wanted, n, seed.derive("mixture", index as u64), &mut ledger);
        if several {
            ledger.sources.push(SourceCount { name, read, used: kept.len() });
        }
        examples.extend(kept);
    }
    ledger.kept = examples.len();
    (examples, ledger)
}

/// Distinct rows; examples of one row stand together.
fn rows<T: Prompted>(examples: &[T]) -> usize {
    usize::from(!examples.is_empty()) + examples.windows(2).filter(|w| w[0].origin() != w[1].origin()).count()
}

fn sampled<T: Prompted>(
    examples: Vec<T>,
    wanted: usize,
    rows: usize,
    seed: Seed,
    ledger: &mut Ledger,
) -> Vec<T> {
    if wanted >= rows {
        return examples;
    }
    let salt = format!("{seed:?}");
    let mut origins: Vec<&Origin> = examples.iter().map(Prompted::origin).collect();
    origins.dedup();
    // Hashes of seed and number: their order is a shuffle.
    let mut order: Vec<(String, usize)> =
        (0..origins.len()).map(|i| (fingerprint_bytes(format!("{salt}{i}").as_bytes()), i)).collect();
    order.sort_unstable();
    let mut used = vec![false; origins.len()];
    order.into_iter().take(wanted).for_each(|(_, i)| used[i] = true);
    let (mut kept, mut row, mut last) = (Vec::new(), 0, None);
    for example in examples {
        if last.as_ref().is_some_and(|l| l != example.origin()) {
            row += 1;
        }
        if last.as_ref() != Some(example.origin()) {
            last = Some(example.origin().clone());
            if !used[row] {
                ledger.drop("not drawn by the weight of its data set", example.origin());
            }
        }
        if used[row] {
            kept.push(example);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::pair::SftExample;
    use crate::schema::{Detected, Schema};

    fn part(name: &str, weight: f64, count: usize, each: usize) -> Part<SftExample> {
        let examples = (0..count * each).map(|i| SftExample {
            prompt: vec![Message::user(i.to_string())],
            response: name.to_owned(),
            origin: Origin::new(name, i / each + 1),
        });
        let ledger = Ledger { read: count, kept: count * each, ..Ledger::default() };
        let detected = Detected { schema: Schema::Sft, because: String::new() };
        Part {
            name: name.to_owned(),
            weight,
            loaded: Loaded { examples: examples.collect(), ledger, detected },
        }
    }

    fn counts(
        parts: Vec<Part<SftExample>>,
        by_weight: bool,
        seed: u64,
    ) -> (Vec<usize>, Vec<SftExample>, Ledger) {
        let (examples, ledger) = mix(parts, by_weight, Seed::new(seed));
        (ledger.sources.iter().map(|s| s.used).collect(), examples, ledger)
    }

    #[test]
    fn weights_set_the_proportions_and_no_row_is_used_twice() {
        let parts = || vec![part("a", 3.0, 30, 1), part("b", 1.0, 400, 1)];
        let (used, examples, ledger) = counts(parts(), true, 1);
        assert_eq!((used, ledger.read, ledger.kept), (vec![30, 10], 430, 40));
        assert_eq!(ledger.dropped["not drawn by the weight of its data set"].rows, 390);
        assert_eq!(ledger.read, ledger.kept + ledger.dropped_rows());
        let chosen = |e: &[SftExample]| e.iter().map(|e| e.origin.clone()).collect::<Vec<_>>();
        assert_eq!(chosen(&examples), chosen(&counts(parts(), true, 1).1));
        assert_ne!(chosen(&examples), chosen(&counts(parts(), true, 2).1));
        assert!(chosen(&examples)[30..].windows(2).all(|w| w[0].row < w[1].row));
    }

    #[test]
    fn without_weights_everything_is_used_and_rows_stay_whole() {
        assert_eq!(counts(vec![part("a", 1.0, 3, 1), part("b", 1.0, 5, 1)], false, 1).0, [3, 5]);
        let (used, examples, _) = counts(vec![part("a", 1.0, 4, 2), part("b", 1.0, 40, 2)], true, 1);
        assert_eq!(used, [8, 8]);
        assert!(examples.chunks(2).all(|two| two[0].origin == two[1].origin));
        let (examples, ledger) = mix(vec![part("a", 1.0, 3, 1)], false, Seed::new(1));
        assert_eq!((examples.len(), ledger.sources.len()), (3, 0));
    }
}
