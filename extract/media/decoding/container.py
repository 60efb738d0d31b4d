"""Opens a video file so that the decoder reads that file and nothing else.

Playlists, lists of files to join and patterns of picture names are not accepted as videos. What they name would be
stored under the wrong item, and it may be a network address. So FFmpeg may only open files, and only containers that
hold everything in one file. It gets the number of an open file instead of a name, because a name may mean more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.errors import MediaError

MP4, AVI, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "avi", "matroska,webm"
# FFmpeg's names of containers that hold everything in one file. Left out on purpose, because they open files that they
# name or that lie beside them: concat, hls, dash, imf, sdp, image2, vobsub, webm_dash_manifest.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,ogg,asf,asf_o,gif,apng,nut,mxf,gxf,wtv,"
    "rm,dv,ivf,obu,av1,h261,h263,h264,hevc,evc,vvc,m4v,mjpeg,mpjpeg,smjpeg,vc1,vc1test,dirac,cavsvideo,avs2,avs3,dnxhd,"
    "yuv4mpegpipe,swf,nsv,pva,ty,wc3movie,roq,smk,bink,flic,film_cpk,ea,dxa,nuv,vivo,4xm,jpegxl_anim,"
    "bmp_pipe,dds_pipe,dpx_pipe,exr_pipe,gem_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_pipe,"
    "pam_pipe,pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,pgmyuv_pipe,phm_pipe,png_pipe,ppm_pipe,psd_pipe,qoi_pipe,sgi_pipe,"
    "sunrast_pipe,tiff_pipe,webp_pipe,xbm_pipe,xpm_pipe,xwd_pipe"
)
# How lists of other files begin. FFmpeg is not asked, because its versions differ in what they take for a list.
LISTS = {
    b"ffconcat": "ffconcat",
    b"#extm3u": "M3U",
    b"[playlist]": "PLS",
    b"<asx": "ASX",
    b"<smil": "SMIL",
    b"<mpd": "DASH",
    b"<?xml": "XML",
    b"v=0": "SDP",
    b"rtsptext": "RTSP",
    b"[reference]": "ASF reference",
    b"# vobsub": "VobSub",
}
HEAD_BYTES = 512
# Bytes 4 to 8 of MP4 and its relatives, and the first bytes of Matroska. decord is given no other files.
MP4_ATOMS = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"


@contextmanager
def safe_name(path: Path) -> Iterator[str]:
    """Open a file and yield a name for it that no FFmpeg takes for anything else; MediaError for empty files and lists.

    The file's own name may have another meaning: 'concat:a|b', 'a%03d.mp4', 'http:x'.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size == 0:
            raise MediaError(f"{path.name}: the file is empty (0 bytes)")
        _refuse_lists(path.name, os.pread(descriptor, HEAD_BYTES, 0))
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _refuse_lists(name: str, head: bytes) -> None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kind = next((kind for sign, kind in LISTS.items() if start.startswith(sign)), None)
    if kind is not None:
        raise MediaError(
            f"{name}: it is a text file ({kind}) that may name other files, not a video; give the video itself"
        )


@contextmanager
def opened(path: Path, **settings: str) -> Iterator[Any]:
    """Open a container with PyAV so that nothing but this file is read.

    Args:
        path: the file.
        settings: further options for its demuxer.

    Raises:
        MediaError: the file is empty, a list of other files, or in a container that is not read.
    """
    import av

    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS} | settings
    with safe_name(path) as name:
        try:
            container = av.open(f"file:{name}", container_options=options)
        except av.error.ArgumentError as error:
            raise MediaError(f"{path.name}: its container is not a known video format; convert it to MP4") from error
        with container:
            yield container


def starts_like_a_video(path: Path) -> bool:
    """Return whether a file begins like MP4 or Matroska, which no version of FFmpeg takes for a list."""
    with path.open("rb") as handle:
        head = handle.read(8)
    return head[4:] in MP4_ATOMS or head[:4] == MATROSKA_MAGIC
