//! How a list is searched, filtered and sorted: the same for tensors and for files.

use ckpt_inspect::Verdict;

/// What a list can be sorted by; by default its own order.
pub trait Sorting: Copy + Default + PartialEq {
    /// The next one, as a key cycles through them.
    fn next(self) -> Self;
    /// In words: the column's heading.
    fn name(self) -> &'static str;
}

/// Which of a list's rows are shown, and in which order.
#[derive(Clone, Debug, Default)]
pub struct Order<S> {
    pub sort: S,
    pub reversed: bool,
    pub query: String,
    pub verdict: VerdictFilter,
}

impl<S: Sorting> Order<S> {
    /// Sorts by `column`; the other way round if it is sorted by it already.
    pub fn sort_by(&mut self, column: S) {
        if self.sort == column {
            self.reversed = !self.reversed;
        } else {
            (self.sort, self.reversed) = (column, false);
        }
    }

    /// The arrow behind the heading of `column`.
    pub fn arrow(&self, column: S) -> &'static str {
        if column == S::default() || self.sort != column {
            ""
        } else if self.reversed {
            "▴"
        } else {
            "▾"
        }
    }
}

/// What keys do with an order, whatever the list is sorted by.
pub trait Narrow {
    fn query(&self) -> &str;
    fn query_mut(&mut self) -> &mut String;
    fn verdict(&self) -> VerdictFilter;
    fn verdict_mut(&mut self) -> &mut VerdictFilter;
    fn reverse(&mut self);
    /// Sorts by the next column, and says which one that is.
    fn sort_by_next(&mut self) -> &'static str;
}

impl<S: Sorting> Narrow for Order<S> {
    fn query(&self) -> &str {
        &self.query
    }

    fn query_mut(&mut self) -> &mut String {
        &mut self.query
    }

    fn verdict(&self) -> VerdictFilter {
        self.verdict
    }

    fn verdict_mut(&mut self) -> &mut VerdictFilter {
        &mut self.verdict
    }

    fn reverse(&mut self) {
        self.reversed = !self.reversed;
    }

    fn sort_by_next(&mut self) -> &'static str {
        (self.sort, self.reversed) = (self.sort.next(), false);
        self.sort.name()
    }
}

/// Which verdicts are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerdictFilter {
    #[default]
    All,
    BelowHealthy,
    Only(Verdict),
}

impl VerdictFilter {
    /// The next one, as a key cycles through them.
    pub fn next(self) -> Self {
        match self {
            VerdictFilter::All => VerdictFilter::BelowHealthy,
            VerdictFilter::BelowHealthy => VerdictFilter::Only(Verdict::Healthy),
            VerdictFilter::Only(verdict) => {
                let at = Verdict::ALL.iter().position(|v| *v == verdict).unwrap_or(0);
                Verdict::ALL.get(at + 1).map_or(VerdictFilter::All, |v| VerdictFilter::Only(*v))
            }
        }
    }

    /// What it shows, in words; empty for everything.
    pub fn name(self) -> &'static str {
        match self {
            VerdictFilter::All => "",
            VerdictFilter::BelowHealthy => "below healthy",
            VerdictFilter::Only(verdict) => verdict.name(),
        }
    }

    /// Whether it shows what has this verdict.
    pub fn keeps(self, verdict: Option<Verdict>) -> bool {
        match self {
            VerdictFilter::All => true,
            VerdictFilter::BelowHealthy => verdict.is_some_and(Verdict::is_below_healthy),
            VerdictFilter::Only(only) => verdict == Some(only),
        }
    }
}
