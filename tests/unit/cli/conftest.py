from fake_library import library

__all__ = ["library"]
