//! Numbers as people read them. Never knows what they count.

/// 1,234,567
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count each second; two digits behind the point only when it is small.
pub fn rate(value: f64) -> String {
    if value < 10.0 && value > 0.0 { format!("{value:.2}") } else { count(value.round() as u64) }
}

/// Nanoseconds in the unit that suits them.
pub fn nanoseconds(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} ns"),
        1_000..1_000_000 => format!("{:.1} us", value as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", value as f64 / 1e6),
        _ => format!("{:.3} s", value as f64 / 1e9),
    }
}

/// Bytes in the unit that suits them.
pub fn bytes(value: f64) -> String {
    match value.abs() {
        size if size < 10_240.0 => format!("{value:.0} B"),
        size if size < 10_485_760.0 => format!("{:.1} KiB", value / 1024.0),
        size if size < 10_737_418_240.0 => format!("{:.1} MiB", value / 1_048_576.0),
        _ => format!("{:.1} GiB", value / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 0.5, 9.99, 12.4, 1e6].map(rate), ["0", "0.50", "9.99", "12", "1,000,000"]);
        assert_eq!([5, 1_500, 2_340_000, 1_500_000_000].map(nanoseconds), ["5 ns", "1.5 us", "2.34 ms", "1.500 s"]);
        assert_eq!([248.0, 20_480.0, -5.0, 2e8].map(bytes), ["248 B", "20.0 KiB", "-5 B", "190.7 MiB"]);
    }
}
