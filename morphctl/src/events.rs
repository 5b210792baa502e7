//! `events`: the story of a run, of a sweep or of all.

use anyhow::Result;
use morph_proto::v1;
use tonic::Status;

use crate::{
    cli::{Format, Global},
    connect::{AWAY, Client, Connection, Purpose, is_away},
    fail::status,
    json, print, text,
};

/// Events asked for at a time.
const PAGE: u32 = 1000;

/// What to tell.
#[derive(Debug)]
pub struct Request {
    /// Run or sweep; empty: all.
    pub id: String,
    /// Go on as things happen.
    pub follow: bool,
    /// Only from this time on, in microseconds since the Unix epoch.
    pub since: u64,
}

/// Prints the events that `request` asks for.
///
/// # Errors
/// When nobody answers, or there is no such run or sweep.
pub async fn events(global: &Global, request: Request) -> Result<()> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let told = tell(global, &mut connection.client, request).await;
    connection.close().await;
    if told? == 0 && !global.quiet {
        say!("nothing has happened");
    }
    Ok(())
}

/// How many events were printed.
async fn tell(global: &Global, client: &mut Client, request: Request) -> Result<usize> {
    let Request { id, follow, since } = request;
    let mut count = 0;
    if follow {
        let mut request = v1::FollowEventsRequest { id, after: 0, since };
        let mut waiting = false;
        loop {
            match followed(global, client, &mut request, &mut count, &mut waiting).await? {
                Ok(()) => return Ok(count),
                Err(gone) if is_away(&gone) => {}
                Err(gone) => return Err(status(&gone)),
            }
            if !std::mem::replace(&mut waiting, true) && !global.quiet {
                say!("{AWAY}");
            }
            *client = Connection::again(global).await?;
        }
    }
    pages(client, v1::EventsRequest { id, since, limit: PAGE, ..Default::default() }, |events| {
        count += events.len();
        events.iter().try_for_each(|e| show(global, e))
    })
    .await?;
    Ok(count)
}

/// Hands all events that `request` asks for to `take`, page after page.
///
/// # Errors
/// When a page is refused, nobody answers, or `take` fails.
pub async fn pages(
    client: &mut Client,
    mut request: v1::EventsRequest,
    mut take: impl FnMut(Vec<v1::Event>) -> Result<()>,
) -> Result<()> {
    loop {
        let events = client.events(request.clone()).await.map_err(|s| status(&s))?.into_inner().events;
        // A page may have fewer than were asked for, and yet not be the last.
        let Some(last) = events.last() else { return Ok(()) };
        request.after = last.seq;
        take(events)?;
    }
}

/// Prints events as they come; `request` asks for the rest afterwards.
///
/// # Errors
/// Outside: they cannot be printed. Inside: the stream broke.
async fn followed(
    global: &Global,
    client: &mut Client,
    request: &mut v1::FollowEventsRequest,
    count: &mut usize,
    waiting: &mut bool,
) -> Result<Result<(), Status>> {
    let mut stream = match client.follow_events(request.clone()).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(some)) => {
                *waiting = false;
                *count += some.events.len();
                some.events.iter().try_for_each(|e| show(global, e))?;
                request.after = some.events.last().map_or(request.after, |e| e.seq);
            }
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}

fn show(global: &Global, event: &v1::Event) -> Result<()> {
    match global.output {
        Format::Json => print::line(&json::event_with_data(event).to_string()),
        Format::Yaml => {
            print::line("---")?;
            print::value(global, &json::event_with_data(event))
        }
        Format::Name => print::line(&format!("event/{}", event.seq)),
        Format::Table => {
            let name = if event.name.is_empty() { "-" } else { &event.name };
            print::line(&format!("{}  {:<20}  {name:<12}  {}", text::instant(event.at), event.kind, event.text))
        }
    }
}

/// A time in microseconds since the Unix epoch, as `10m` (ago) or `2026-11-23T10:00:00Z`.
///
/// # Errors
/// Says how to write one.
pub fn since(text: &str) -> Result<u64, String> {
    let bad = || "expected how long ago, like 90s, 10m or 2d, or a time like 2026-11-23T10:00:00Z".to_owned();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(at.as_microsecond()).map_err(|_| bad());
    }
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    let ago = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    let ago = u64::try_from(ago.as_micros()).map_err(|_| bad())?;
    Ok(text::now().saturating_sub(ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000_000));
        let day = since("1d").unwrap();
        let ago = text::now() - day;
        assert!((86_400_000_000..86_460_000_000).contains(&ago), "{ago}");
        for text in ["", "yesterday", "-5m", "10", "1969-01-01T00:00:00Z"] {
            assert!(since(text).unwrap_err().contains("10m"), "{text}");
        }
    }
}
