"""Dataset readers, one file per layout. Each detects folders of its layout and reads them."""
