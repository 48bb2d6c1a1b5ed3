//! What an agent's memory holds when its callers have gone.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use data_encoding::BASE64;
use support::world::GRANT;
use support::{PATIENCE, Scene, Service, World, eventually};

const PAGE: u64 = 4096;

/// Of each page of memory there is a word that tells what it is: its highest bits that it is there, or in swap.
const IS_SOMEWHERE: u64 = 0b11 << 62;

/// The parts of a region that are there, in bytes.
fn parts(pages: &File, from: u64, to: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut words = vec![0; usize::try_from((to - from) / PAGE * 8).unwrap()];
    pages.read_exact_at(&mut words, from / PAGE * 8)?;
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for (word, at) in words.as_chunks::<8>().0.iter().zip((from..to).step_by(PAGE.try_into().unwrap())) {
        if u64::from_ne_bytes(*word) & IS_SOMEWHERE == 0 {
            continue;
        }
        match parts.last_mut() {
            Some((_, end)) if *end == at => *end += PAGE,
            Some(_) | None => parts.push((at, at + PAGE)),
        }
    }
    Ok(parts)
}

/// Where in its memory a process has one of `needles`, and what stands around it.
fn places(pid: u32, needles: &[&[u8]]) -> io::Result<Vec<String>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let [memory, pages] = ["mem", "pagemap"].map(|name| File::open(format!("/proc/{pid}/{name}")));
    let (memory, pages) = (memory?, pages?);
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")))
    {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap();
        let [from, to] = [range.0, range.1].map(|end| u64::from_str_radix(end, 16).unwrap());
        for (from, to) in parts(&pages, from, to)? {
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            // It may go while it is read.
            if memory.read_exact_at(&mut bytes, from).is_err() {
                continue;
            }
            let all = needles.iter().flat_map(|needle| memchr::memmem::find_iter(&bytes, needle));
            found.extend(all.map(|at| {
                let around = &bytes[at.saturating_sub(48)..(at + 96).min(bytes.len())];
                format!("{line} at {at:#x}: {}", around.escape_ascii())
            }));
        }
    }
    Ok(found)
}

/// Everything that a caller can prove itself with is used by HTTP/1 and HTTP/2, rightly and wrongly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_callers_showed_is_in_memory_when_they_have_gone() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[token]\nissuer = \"https://localhost:8443\"\nlisteners = [\"inbound\"]\n");
    scene.amend_config("[log]\n", "[log]\nlevel = \"debug,postern=trace\"\n");
    let secret = scene.client_secret();
    scene.app("web", &format!("accepts = [[\"token\"]]\n{}{GRANT}", secret.secret_table()));
    let key = scene.app_with_key("by-key");
    // For those who may look only into what is theirs.
    scene.amend_config("state_dir", "core_dumps = true\nstate_dir");
    let world = scene.start().await;
    let wrong = format!("{}{}", &key.text[..key.text.len() - 8], "00000000");

    let mut tokens = Vec::new();
    for by_header in [true, false] {
        let form = "grant_type=client_credentials".to_owned();
        let (line, form) = if by_header {
            (
                format!(
                    "authorization: Basic {}\r\n",
                    BASE64.encode(format!("web:{}", secret.text).as_bytes())
                ),
                form,
            )
        } else {
            (String::new(), format!("{form}&client_id=web&client_secret={}", secret.text))
        };
        let ask = format!(
            "POST /oauth/token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n{line}\r\n{form}",
            form.len()
        );
        let answer = world.talk(None).await.ask(&ask).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        tokens.push(answer.json()["access_token"].as_str().unwrap().to_owned());
    }
    let mut shown = vec![(key.text.clone(), 200, "x-api-key"), (wrong, 401, "x-api-key")];
    shown.extend(tokens.iter().map(|token| (format!("Bearer {token}"), 200, "authorization")));
    for (value, status, name) in &shown {
        let mut talk = world.talk(None).await;
        for _ in 0..5 {
            assert_eq!(talk.get("/a", &format!("{name}: {value}\r\n")).await.status, *status);
        }
        let h2 = world.h2(None).await;
        for _ in 0..5 {
            assert_eq!(h2.get("/a", &[(name, value)]).await.status, *status);
        }
    }
    let _url = world.talk(None).await.get(&format!("/a?apikey={}", key.text), &key.line()).await;
    let needles = [&key.text[14..], &secret.text[14..]].into_iter();
    let needles = needles.chain(tokens.iter().map(|token| &token[token.len() - 40..]));
    let needles: Vec<_> = needles.map(str::as_bytes).collect();

    gone(&world).await;
    match places(world.pid(), &[b"https://localhost:8443"]) {
        Ok(found) => assert!(!found.is_empty(), "what is there is found"),
        Err(error) => return println!("skipped: the memory of another process cannot be read here: {error}"),
    }
    let mut left = Vec::new();
    let wiped = async {
        loop {
            left = places(world.pid(), &needles).unwrap();
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let wiped = tokio::time::timeout(2 * PATIENCE, wiped).await;
    assert!(wiped.is_ok(), "{}", left.join("\n"));
}

/// Waits until no connection is open.
async fn gone(world: &World) {
    eventually("every caller has gone", async || {
        (world.metric("postern_connections").await? == 0.0).then_some(())
    })
    .await;
}
