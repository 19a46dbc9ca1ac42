"""What tests share: namespaces, trees, images, leftovers, the import law. Only tests import it."""
