-- One database for each service that has tables.
CREATE DATABASE yakumo_identity;
CREATE DATABASE yakumo_image;
CREATE DATABASE yakumo_object_store;
CREATE DATABASE yakumo_api;
CREATE DATABASE yakumo_network;
CREATE DATABASE yakumo_volume;
