//! A device's memory, taken once: ranges of it are handed out and come back, and the driver is not asked again.

use std::collections::BTreeMap;

/// Every range begins at a multiple of so many elements: 256 bytes, what a device reads together.
const ALIGNMENT: usize = 32;

/// Which ranges are free. Lengths are in elements.
#[derive(Debug)]
pub(crate) struct Ranges {
    /// Beginnings of free ranges, and their lengths. No two touch.
    free: BTreeMap<usize, usize>,
    length: usize,
    used: usize,
    most_used: usize,
}

/// No free range is long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// The longest free range.
    pub(crate) longest: usize,
}

impl Ranges {
    pub(crate) fn new(length: usize) -> Self {
        let length = length / ALIGNMENT * ALIGNMENT;
        let free = if length > 0 { BTreeMap::from([(0, length)]) } else { BTreeMap::new() };
        Self { free, length, used: 0, most_used: 0 }
    }

    /// All of it.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The most that was taken at a time.
    pub(crate) fn most_used(&self) -> usize {
        self.most_used
    }

    /// What is taken now.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// The beginning of a range of this length: of the free ones that are long enough the shortest.
    pub(crate) fn take(&mut self, length: usize) -> Result<usize, Full> {
        let length = length.max(1).next_multiple_of(ALIGNMENT);
        let fitting = self.free.iter().filter(|(_, free)| **free >= length);
        let Some((begin, free)) = fitting.min_by_key(|(_, free)| **free).map(|(begin, free)| (*begin, *free))
        else {
            return Err(Full { longest: self.free.values().copied().max().unwrap_or(0) });
        };
        self.free.remove(&begin);
        if free > length {
            self.free.insert(begin + length, free - length);
        }
        self.used += length;
        self.most_used = self.most_used.max(self.used);
        Ok(begin)
    }

    /// Gives a range back, which was taken with this length.
    pub(crate) fn give_back(&mut self, begin: usize, length: usize) {
        let length = length.max(1).next_multiple_of(ALIGNMENT);
        self.used -= length;
        let (mut begin, mut length) = (begin, length);
        if let Some((before, free)) = self.free.range(..begin).next_back().map(|(b, l)| (*b, *l))
            && before + free == begin
        {
            self.free.remove(&before);
            (begin, length) = (before, free + length);
        }
        if let Some(free) = self.free.remove(&(begin + length)) {
            length += free;
        }
        self.free.insert(begin, length);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_overlap_and_come_back_whole() {
        let mut ranges = Ranges::new(100_000);
        let mut taken: Vec<(usize, usize)> = Vec::new();
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut refused = 0;
        for _ in 0..20_000 {
            if random(2) == 0 && !taken.is_empty() {
                let (begin, length) = taken.swap_remove(random(taken.len()));
                ranges.give_back(begin, length);
            } else {
                let length = random(5_000);
                match ranges.take(length) {
                    Ok(begin) => taken.push((begin, length)),
                    Err(Full { longest }) => {
                        assert!(longest < length);
                        refused += 1;
                    }
                }
            }
            let mut sorted = taken.clone();
            sorted.sort_unstable();
            assert!(sorted.windows(2).all(|two| two[0].0 + two[0].1.max(1) <= two[1].0), "{sorted:?}");
            assert!(sorted.last().is_none_or(|(begin, length)| begin + length <= ranges.length()));
        }
        assert!(refused > 100, "it was never full");
        for (begin, length) in taken {
            ranges.give_back(begin, length);
        }
        assert_eq!((ranges.used(), ranges.take(ranges.length())), (0, Ok(0)), "it is one range again");
        assert_eq!(ranges.most_used(), ranges.length());
    }

    #[test]
    fn what_is_full_tells_what_there_is() {
        let mut ranges = Ranges::new(96);
        assert_eq!(ranges.take(1), Ok(0));
        assert_eq!(ranges.take(65), Err(Full { longest: 64 }));
        assert_eq!(ranges.take(64), Ok(32));
        assert_eq!(ranges.take(0), Err(Full { longest: 0 }));
    }
}
