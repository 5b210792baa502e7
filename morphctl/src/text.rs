//! Numbers and times in words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch, now.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// RFC 3339, to the second.
pub fn instant(micros: u64) -> String {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| micros.to_string(), |t| t.to_string())
}

/// How long ago something was; `-` for never.
pub fn ago(micros: u64, now: u64) -> String {
    if micros == 0 { "-".into() } else { duration(Duration::from_micros(now.saturating_sub(micros))) }
}

/// `42s`, `3m10s`, `2h05m`, `3d4h`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86400, s % 86400 / 3600),
    }
}

/// `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A score or loss, short.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e5).contains(&a) => format!("{value:.2e}"),
        a if a >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.4}"),
    }
}

/// A sweep's choices in one line: the last part of each field's name and its value.
pub fn params(json: &str) -> String {
    let Ok(serde_json::Value::Object(map)) = serde_json::from_str(json) else { return String::new() };
    let one = |(name, value): (&String, &serde_json::Value)| {
        let short = name.rsplit('.').next().unwrap_or(name);
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{short}={value}")
    };
    map.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(duration(Duration::from_secs(59)), "59s");
        assert_eq!(duration(Duration::from_secs(190)), "3m10s");
        assert_eq!(duration(Duration::from_secs(7500)), "2h05m");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(number(0.912_34), "0.9123");
        assert_eq!(number(1.5e-5), "1.50e-5");
        assert_eq!(instant(1_700_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(
            params(r#"{"trainer.optimizer.lr":0.001,"trainer.loss.reconstruction":"l1"}"#),
            "reconstruction=l1 lr=0.001"
        );
    }
}
