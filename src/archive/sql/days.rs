//! F10 · Days of the calendar, in UTC: parts of tables are named after the first one that they hold.
//!
//! Owns the arithmetic. Never asks what day it is.

pub const DAY_MS: i64 = 86_400_000;

/// A part of a table: from its first day to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DayPart {
    /// Days since 1970.
    pub first: i64,
    /// How many.
    pub days: i64,
}

impl DayPart {
    /// The one that a moment is in.
    pub fn of(unix_ms: i64, days: u16) -> DayPart {
        let days = i64::from(days.max(1));
        DayPart { first: unix_ms.div_euclid(DAY_MS).div_euclid(days) * days, days }
    }

    pub fn next(self) -> DayPart {
        DayPart { first: self.first + self.days, ..self }
    }

    pub fn start_ms(self) -> i64 {
        self.first * DAY_MS
    }

    pub fn end_ms(self) -> i64 {
        self.next().start_ms()
    }

    /// Its first day: 20261130.
    pub fn name(self) -> String {
        let (year, month, day) = civil(self.first);
        format!("{year:04}{month:02}{day:02}")
    }
}

/// The first day of a part of that name.
pub fn first_of(name: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| name.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let guess = days_before(year) + (month - 1) * 28 + day - 1;
    // Months are up to three days longer than four weeks.
    (guess..guess + 40).find(|days| civil(*days) == (year, month, day)).filter(|_| name.len() == 8)
}

/// Days from 1970 to the first of January.
fn days_before(year: i64) -> i64 {
    let before = year - 1;
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    (year - 1970) * 365 + leaps(before) - leaps(1969)
}

/// Year, month and day.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while days_before(year + 1) <= days {
        year += 1;
    }
    let is_leap = days_before(year + 1) - days_before(year) == 366;
    let mut rest = days - days_before(year);
    let february = if is_leap { 29 } else { 28 };
    for (month, length) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
        if rest < length {
            return (year, month as i64 + 1, rest + 1);
        }
        rest -= length;
    }
    (year + 1, 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_name_of_their_first_day_and_meet() {
        for (unix_ms, days, name) in [
            (0, 1, "19700101"),
            (951_782_400_000, 1, "20000229"),
            (951_868_800_000, 1, "20000301"),
            (1_796_083_199_999, 1, "20261130"),
            (1_796_083_200_000, 1, "20261201"),
            (4_107_542_399_999, 1, "21000228"),
            (4_107_542_400_000, 1, "21000301"),
            (6 * DAY_MS, 7, "19700101"),
            (7 * DAY_MS, 7, "19700108"),
        ] {
            let part = DayPart::of(unix_ms, days);
            assert_eq!(part.name(), name);
            assert!(part.start_ms() <= unix_ms && unix_ms < part.end_ms());
            assert_eq!(part.next().start_ms(), part.end_ms());
        }
        let mut part = DayPart::of(0, 1);
        for _ in 0..60_000 {
            assert_eq!(first_of(&part.name()), Some(part.first));
            part = part.next();
        }
        for none in ["", "2026", "20261301", "20260230", "202611301", "abcdefgh", "2026é01"] {
            assert_eq!(first_of(none), None, "{none}");
        }
    }
}
