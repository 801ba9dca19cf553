-- A service has a database of its own. The first, of the shop, is made by the image.
CREATE DATABASE warehouse;
