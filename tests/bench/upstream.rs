//! The null upstream: an HTTP/1.1 server that keeps connections open and gives every request the same answer.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves until it is killed.
pub(crate) async fn serve(address: SocketAddr, bytes: u32) -> anyhow::Result<()> {
    let body = "x".repeat(usize::try_from(bytes)?);
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer: Rc<[u8]> = Rc::from((head + &body).into_bytes());
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = Rc::clone(&answer);
        tokio::task::spawn_local(async move {
            // The other end went away: nothing is left to be told.
            drop(answer_all(stream, &answer).await);
        });
    }
}

/// Answers each head that ends; requests with bodies are not its trade.
async fn answer_all(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(4096);
    while stream.read_buf(&mut buffer).await? > 0 {
        while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            drop(buffer.split_to(end + 4));
            stream.write_all(answer).await?;
        }
        if buffer.len() > 65_536 {
            return Ok(());
        }
        if buffer.is_empty() {
            buffer.clear();
            buffer.reserve(4096);
        }
    }
    Ok(())
}
